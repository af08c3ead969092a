"""Archives in an S3 bucket: Amazon's, or of any server that speaks S3. Switched on by ARCHIVE_S3_URL.

Endpoint, region and credentials are those that boto3 finds by itself (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, a role).
An object is made once and never replaced: If-None-Match says so to the server, and where a server does not know it,
a HEAD before does. Its SHA-256 goes along twice: as checksum, which the server compares with what arrived (per part
where there are several), and whole, as metadata. Putting the same file again finds it there, so it is safe to repeat.
Addresses have the bucket in their path, which every server understands.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from partitions.archive_file import digest_of, private
from pg.errors import Refused, Unreachable

CONNECT_SECONDS, READ_SECONDS, TRIES = 5, 60, 3
SECRETS = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (or the profile, or the role)"
DENIED = {
    "403",
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
}
TAKEN = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}


class S3Store:
    """A store for partitions.upload: `url` is s3://bucket or s3://bucket/prefix. Connects at the first use."""

    setting = "ARCHIVE_S3_URL"  # that the url comes from: where people are sent to mend it

    def __init__(self, url: str) -> None:
        self.bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.condition: dict[str, str] = {"IfNoneMatch": "*"}

    @cached_property
    def client(self) -> Any:
        import boto3  # here: nobody else pays for it
        from botocore.config import Config

        client = boto3.session.Session().client(
            "s3",
            config=Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"mode": "standard", "total_max_attempts": TRIES},
                s3={"addressing_style": "path"},
            ),
        )
        # the transfer manager has no argument for it
        for request in ("PutObject", "CompleteMultipartUpload"):
            client.meta.events.register(f"before-parameter-build.s3.{request}", self.add_condition)
        return client

    def add_condition(self, params: dict[str, Any], **_: Any) -> None:
        params.update(self.condition)

    def put(self, path: Path, key: str) -> str:
        """Store the file and return its address; that very file being there already is as good.

        Raises Refused (credentials, bucket, another object has the key), Unreachable, OSError.
        """
        key, digest, size_bytes = self.prefix + key, digest_of(path), path.stat().st_size
        address = f"s3://{self.bucket}/{key}"
        with self.told(address):
            found = self.head(key)
            if found is None:
                # some servers would make the bucket, name mistyped or not
                self.client.head_bucket(Bucket=self.bucket)
                self.upload(path, key, digest)
                found = self.head(key)
        if found is None:
            raise Unreachable(f"{address} is not there, though the server took it", "see the server's log")
        if found != (digest, size_bytes):
            raise Refused(
                f"{address} is not {path.name}: another object has that key",
                f"nothing was overwritten; see whose object it is, and move it away or change {self.setting}",
            )
        return address

    def head(self, key: str) -> tuple[str | None, int] | None:
        """Return SHA-256 and size in bytes of the object; None where there is none."""
        from botocore.exceptions import ClientError

        try:
            found = self.client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if code_of(error) in ("404", "NoSuchKey", "NotFound"):
                return None
            raise
        return found["Metadata"].get("sha256"), found["ContentLength"]

    def upload(self, path: Path, key: str, digest: str) -> None:
        """Send the file, in parts where it is large. An object that came meanwhile stays as it is."""
        from botocore.exceptions import ClientError

        extra = {"ChecksumAlgorithm": "SHA256", "Metadata": {"sha256": digest}}
        try:
            with path.open("rb") as raw:
                self.client.upload_fileobj(raw, self.bucket, key, ExtraArgs=extra)
        except ClientError as error:
            if code_of(error) in TAKEN:
                return
            if code_of(error) not in ("501", "NotImplemented") or not self.condition:
                raise
            self.condition = {}  # this server does not know If-None-Match: the HEAD before must do
            self.upload(path, key, digest)

    def get(self, key: str, path: Path) -> None:
        """Write the object to the file, readable by us alone. Raises FileNotFoundError, Refused, Unreachable."""
        key = self.prefix + key
        address = f"s3://{self.bucket}/{key}"
        with self.told(address):
            if self.head(key) is None:
                raise FileNotFoundError(f"{address} is not there")
            with open(path, "wb", opener=private) as out:
                self.client.download_fileobj(self.bucket, key, out)

    def check(self) -> str:
        """Return the store's address if it answers and its bucket is there. Raises Refused, Unreachable."""
        address = f"s3://{self.bucket}/{self.prefix}"
        with self.told(address):
            self.client.head_bucket(Bucket=self.bucket)
        return address

    @contextmanager
    def told(self, address: str) -> Iterator[None]:
        """Say in our words what boto3 raises."""
        from boto3.exceptions import Boto3Error
        from botocore import exceptions as boto

        try:
            yield
        except (
            boto.NoCredentialsError,
            boto.PartialCredentialsError,
            boto.CredentialRetrievalError,
            boto.ProfileNotFound,
        ) as error:
            raise Refused(f"{address}: {error}", f"set {SECRETS}") from error
        except ValueError as error:  # of making the client
            raise Refused(f"{address}: {error}", "see AWS_ENDPOINT_URL and AWS_DEFAULT_REGION") from error
        except boto.ClientError as error:
            raise self.refusal(address, error) from error
        except (boto.BotoCoreError, Boto3Error) as error:
            raise Unreachable(
                f"{address}: {error}",
                "see whether the server of AWS_ENDPOINT_URL runs and can be reached from here",
            ) from error

    def refusal(self, address: str, error: Any) -> Refused | Unreachable:
        code = code_of(error)
        if code in DENIED:
            hint = f"see {SECRETS}; reading, writing and listing must be allowed in the bucket"
            return Refused(f"{address}: the server does not let us in ({code})", hint)
        if code in ("404", "NoSuchBucket"):  # that an object is not there is no error here
            hint = f"create it, or name another in {self.setting}"
            return Refused(f"{address}: there is no bucket {self.bucket}", hint)
        return Unreachable(f"{address}: {error}", "see the server's log; it did not do what it was asked")


def code_of(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))

"""Stores to test with: a folder, and a bucket of a real S3 server."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from cockpit.servers.running import Running
from recovery import catalogue, manifest, packing, wal_archive
from recovery.models import Backup
from recovery.physical import Options, describe_physical
from recovery.stores import open_store
from tests.partitions.seaweed import BUCKET, USER, SeaweedFS
from tests.recovery.test_wal_archive import segment


@pytest.fixture(scope="session")
def seaweed(make_home: Any) -> Iterator[Any]:
    server = SeaweedFS(make_home())
    with Running(server) as running:
        yield running
        running.kill()
        server.remove_sockets()


@pytest.fixture
def owner(seaweed: Any) -> Iterator[Any]:
    """A client that may spoil objects and make buckets."""
    client = seaweed.server.client()
    yield client
    client.close()


def s3_environment(seaweed: Any, user: str = USER) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": seaweed.server.url(),
        "AWS_ACCESS_KEY_ID": user,
        "AWS_SECRET_ACCESS_KEY": seaweed.server.password(),
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }


def use_s3(seaweed: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    """Let the settings name a bucket's prefix of this test's own; return the URL."""
    for variable, value in s3_environment(seaweed).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("partitions.s3.TRIES", 1)
    url = f"s3://{BUCKET}/{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    monkeypatch.setattr(settings, "BACKUP_STORE_URL", url)
    return url


def use_folder(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = own_home / "nas"
    folder.mkdir()
    url = f"file://{folder}"
    monkeypatch.setattr(settings, "BACKUP_STORE_URL", url)
    return url


class Spoiler:
    """What others do to objects: the bytes change, the store's own SHA-256 of them stays."""

    def __init__(self, url: str, owner: Any = None) -> None:
        self.url, self.owner = url, owner

    def at(self, key: str) -> dict[str, str]:
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        return {"Bucket": bucket, "Key": f"{prefix}/{key}"}

    def path(self, key: str) -> Path:
        return Path(self.url.removeprefix("file://")) / key

    def read(self, key: str) -> bytes:
        if self.owner is None:
            return self.path(key).read_bytes()
        return bytes(self.owner.get_object(**self.at(key))["Body"].read())

    def write(self, key: str, content: bytes) -> None:
        if self.owner is None:
            self.path(key).parent.mkdir(parents=True, exist_ok=True)
            self.path(key).write_bytes(content)
            return
        try:
            known = self.owner.head_object(**self.at(key))["Metadata"]
        except self.owner.exceptions.ClientError:
            known = {}
        self.owner.put_object(**self.at(key), Body=content, Metadata=known)

    def flip_a_bit(self, key: str) -> None:
        content = bytearray(self.read(key))
        content[len(content) // 2] ^= 1
        self.write(key, bytes(content))

    def remove(self, key: str) -> None:
        if self.owner is None:
            self.path(key).unlink()
            return
        self.owner.delete_object(**self.at(key))


@pytest.fixture(params=["folder", "S3"])
def url(request: Any, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a store, as the settings have it: each test is run on both."""
    if request.param == "folder":
        yield use_folder(own_home, monkeypatch)
        return
    yield use_s3(request.getfixturevalue("seaweed"), monkeypatch, request.node.name)


@pytest.fixture
def spoiler(url: str, request: Any) -> Spoiler:
    return Spoiler(url, None if url.startswith("file:") else request.getfixturevalue("owner"))


@pytest.fixture
def store(url: str) -> Iterator[Any]:
    made: Any = open_store()
    yield made
    if "client" in vars(made):
        made.client.close()


# -- something to send ---------------------------------------------------------------------------------------
SYSTEM = "7300000000000000001"
SEGMENT_NAMES = [f"0000000100000000{number:08X}" for number in range(1, 5)]


@dataclass
class Few:
    """A base and an incremental backup of a few small files, and an archive of four segments: no server made them."""

    root: Path
    backups: dict[str, Backup]


@pytest.fixture
def few(backup_dir: Path, db: None) -> Few:
    catalogue.make_folders()
    for name in SEGMENT_NAMES:
        source = backup_dir / name
        source.write_bytes(segment(name, system=int(SYSTEM)))
        wal_archive.push(str(source), str(backup_dir))
        source.unlink()
    base = make_backup("base", 1)
    return Few(backup_dir, {"base": base, "incremental": make_backup("incremental", 2, base)})


def make_backup(kind: str, number: int, parent: Backup | None = None) -> Backup:
    """Make a finished backup of segment `number`, in three parts where a part is a megabyte."""
    now = timezone.now()
    backup = Backup(
        kind=kind,
        parent_id=parent.pk if parent else None,
        database_name="d",
        server_version="18.6",
        tool_version="18.6",
        database_bytes=1,
        system_identifier=SYSTEM,
        timeline=1,
        start_lsn=number << 20,
        end_lsn=(number << 20) + 1,
        started_at=now,
        completed_at=now,
        status="complete",
    )
    backup.location = f"base/{now:%Y%m%dT%H%M%S%fZ}-{backup.pk}"
    folder = catalogue.folder_of(backup)
    (folder / "data" / "empty").mkdir(parents=True)
    for name in "abc":
        (folder / "data" / name).write_bytes(hashlib.shake_256(f"{kind}{name}".encode()).digest(700_000))
    backup.manifest_sha256 = manifest.write_manifest(folder, describe_physical(backup, now, Options()))
    backup.size_bytes = manifest.size_of(folder)
    catalogue.save(backup)
    return backup


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part holds one of the few files."""
    monkeypatch.setattr(packing.plan_parts, "__defaults__", (1 << 20,))


__all__ = ["few", "owner", "seaweed", "small_parts", "spoiler", "store", "url"]

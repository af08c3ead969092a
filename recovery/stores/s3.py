"""A store in a bucket of S3, Amazon's or of any server that speaks it. Switched on by BACKUP_STORE_URL=s3://bucket/prefix.

Endpoint, region and credentials are those that boto3 finds by itself. Every request that sends bytes carries their
SHA-256, which the server compares with what arrived; the whole object's is its metadata. Large objects go in parts:
after an interruption the parts that are there are kept, if they are the same. An object is taken for stored only when
the server says afterwards what we sent.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from partitions.archive_file import private
from partitions.s3 import TAKEN, code_of
from partitions.s3 import S3Store as Bucket
from pg.errors import Unreachable
from recovery.errors import Damaged
from recovery.stores import Stored
from recovery.stores.local import require_same

PART_BYTES = 32 << 20  # S3 takes at most 10,000 parts: objects up to 320 GB
CHUNK_BYTES = 1 << 20
DELETED_AT_ONCE = LISTED_AT_ONCE = 1000  # S3 takes and gives no more


@dataclass(frozen=True)
class S3Options:
    """`storage_class` is for cold objects only, "": the bucket's own. `lock_days` 0: none. `sse`: "", "AES256",
    "aws:kms", or "aws:kms:<key id>"."""

    storage_class: str = ""
    lock_days: int = 0
    lock_mode: str = "governance"
    sse: str = ""

    def arguments(self, is_cold: bool, now: datetime) -> dict[str, Any]:
        """Return what goes with each new object."""
        found: dict[str, Any] = {}
        if is_cold and self.storage_class:
            found["StorageClass"] = self.storage_class
        if self.lock_days:
            found |= {"ObjectLockMode": self.lock_mode.upper(),
                      "ObjectLockRetainUntilDate": now + timedelta(days=self.lock_days)}  # fmt: skip
        if self.sse:
            found["ServerSideEncryption"] = ":".join(self.sse.split(":")[:2])
            if key := self.sse.removeprefix("aws:kms").strip(":") if self.sse.startswith("aws:kms") else "":
                found["SSEKMSKeyId"] = key
        return found


def options_of_settings() -> S3Options:
    return S3Options(
        settings.BACKUP_S3_STORAGE_CLASS, settings.BACKUP_S3_LOCK_DAYS, settings.BACKUP_S3_LOCK_MODE,
        settings.BACKUP_S3_SSE,
    )  # fmt: skip


class S3Store(Bucket):
    """`url` is s3://bucket or s3://bucket/prefix."""

    setting = "BACKUP_STORE_URL"

    def __init__(self, url: str, options: S3Options | None = None) -> None:
        super().__init__(url)
        self.url, self.options = url.rstrip("/"), options or S3Options()

    def add_condition(self, params: dict[str, Any], **_: Any) -> None:
        """Ours is given with each request: some objects may be replaced."""

    # -- writing --------------------------------------------------------------------------------------------
    def put(  # type: ignore[override]
        self, path: Path, key: str, sha256: str, *, replace: bool = False, is_cold: bool = False
    ) -> None:
        address, size_bytes = f"{self.url}/{key}", path.stat().st_size
        with self.told(address):
            found = None if replace else self.head(key)
            if found is None:
                self.client.head_bucket(
                    Bucket=self.bucket
                )  # some servers would make it, name mistyped or not
                self.send(path, key, sha256, {} if replace else self.condition, is_cold)
                found = self.head(key)
        if found is None:
            raise Unreachable(f"{address} is not there, though the server took it", "see the server's log")
        require_same(address, found, sha256, size_bytes)

    def send(self, path: Path, key: str, sha256: str, condition: dict[str, str], is_cold: bool) -> None:
        """Send the file, in parts where it is large. An object that came meanwhile stays as it is."""
        from botocore.exceptions import ClientError

        about = {"Metadata": {"sha256": sha256}, **self.options.arguments(is_cold, timezone.now())}
        try:
            if path.stat().st_size <= PART_BYTES:
                self.send_whole(path, key, sha256, {**about, **condition})
            else:
                self.send_parts(path, key, about, condition)
        except ClientError as error:
            if code_of(error) in TAKEN:
                return
            if code_of(error) not in ("501", "NotImplemented") or not condition:
                raise
            self.condition = {}  # this server does not know If-None-Match: the HEAD before must do
            self.send(path, key, sha256, {}, is_cold)

    def send_whole(self, path: Path, key: str, sha256: str, about: dict[str, Any]) -> None:
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        with path.open("rb") as body:
            self.client.put_object(**self.at(key), Body=body, ChecksumSHA256=checksum, **about)

    def send_parts(self, path: Path, key: str, about: dict[str, Any], condition: dict[str, str]) -> None:
        """Send what is not there yet of an upload that was interrupted, or all of it; then let it appear."""
        upload_id, there = self.unfinished(path, key)
        if upload_id is None:
            made = self.client.create_multipart_upload(**self.at(key), ChecksumAlgorithm="SHA256", **about)
            upload_id = made["UploadId"]
        parts = []
        for number, chunk in chunks_of(path):
            part = there.get(number)
            if part is None:
                checksum = checksum_of(chunk)
                part = self.client.upload_part(
                    **self.at(key), UploadId=upload_id, PartNumber=number, Body=chunk, ChecksumSHA256=checksum
                )
                part["ChecksumSHA256"] = checksum
            parts.append(
                {"PartNumber": number, "ETag": part["ETag"], "ChecksumSHA256": part["ChecksumSHA256"]}
            )
        self.client.complete_multipart_upload(
            **self.at(key), UploadId=upload_id, MultipartUpload={"Parts": parts}, **condition
        )

    def unfinished(self, path: Path, key: str) -> tuple[str | None, dict[int, dict[str, Any]]]:
        """Return the upload of this key that was interrupted, and its parts, all of which are the file's own; None
        where there is none. One of another file is thrown away."""
        for upload_id in self.uploads_of(key):
            there = {part["PartNumber"]: part for part in self.parts_of(key, upload_id)}
            if there and self.are_parts_of(path, there):
                return upload_id, there
            self.client.abort_multipart_upload(**self.at(key), UploadId=upload_id)
        return None, {}

    def uploads_of(self, key: str) -> list[str]:
        pages = self.client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self.bucket, Prefix=self.prefix + key
        )
        return [found["UploadId"] for page in pages for found in page.get("Uploads", ())
                if found["Key"] == self.prefix + key]  # fmt: skip

    def parts_of(self, key: str, upload_id: str) -> Iterator[dict[str, Any]]:
        for page in self.client.get_paginator("list_parts").paginate(**self.at(key), UploadId=upload_id):
            yield from page.get("Parts", ())

    def are_parts_of(self, path: Path, there: dict[int, dict[str, Any]]) -> bool:
        """Compare by SHA-256, or by MD5 with a server that tells no other; fill in what the server does not tell."""
        for number, chunk in chunks_of(path):
            part = there.get(number)
            if part is None:
                continue
            checksum = checksum_of(chunk)
            md5 = hashlib.md5(chunk, usedforsecurity=False).hexdigest()
            if part["Size"] != len(chunk) or (
                part.get("ChecksumSHA256") != checksum and part["ETag"].strip('"') != md5
            ):
                return False
            part["ChecksumSHA256"] = checksum
        return max(there) <= -(-path.stat().st_size // PART_BYTES)

    # -- reading --------------------------------------------------------------------------------------------
    def head(self, key: str) -> Stored | None:  # type: ignore[override]
        from botocore.exceptions import ClientError

        with self.told(f"{self.url}/{key}"):
            try:
                found = self.client.head_object(**self.at(key))
            except ClientError as error:
                if code_of(error) in ("404", "NoSuchKey", "NotFound"):
                    return None
                raise
        return Stored(key, found["ContentLength"], found["LastModified"], found["Metadata"].get("sha256"))

    def get(self, key: str, path: Path) -> Stored:  # type: ignore[override]
        found = self.head(key)
        if found is None:
            raise FileNotFoundError(f"{self.url}/{key} is not there")
        digest = hashlib.sha256()
        with self.told(f"{self.url}/{key}"):
            body = self.client.get_object(**self.at(key))["Body"]
            with open(path, "wb", opener=private) as out:
                for chunk in body.iter_chunks(CHUNK_BYTES):
                    digest.update(chunk)
                    out.write(chunk)
        if found.sha256 is not None and digest.hexdigest() != found.sha256:
            path.unlink()
            raise Damaged(
                f"{self.url}/{key} has other contents: its SHA-256 differs", "another copy is needed"
            )
        return found

    def list(self, prefix: str = "") -> Iterator[Stored]:
        with self.told(f"{self.url}/{prefix}"):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix, PaginationConfig={"PageSize": LISTED_AT_ONCE}
            )
            for page in pages:
                for found in page.get("Contents", ()):
                    key = found["Key"].removeprefix(self.prefix)
                    yield Stored(key, found["Size"], found["LastModified"])

    # -- removing -------------------------------------------------------------------------------------------
    def delete(self, keys: Iterable[str]) -> dict[str, str]:
        refused: dict[str, str] = {}
        with self.told(self.url):
            for some in batches(keys):
                wanted = {"Objects": [{"Key": self.prefix + key} for key in some], "Quiet": True}
                answer = self.client.delete_objects(Bucket=self.bucket, Delete=wanted)
                for error in answer.get("Errors", ()):
                    if error.get("Code") not in ("NoSuchKey", "404"):
                        why = f"{error.get('Code')}: {error.get('Message', '')}".strip(": ")
                        refused[error["Key"].removeprefix(self.prefix)] = why
        return refused

    def end_unfinished(self, before: datetime) -> int:
        ended = 0
        with self.told(self.url):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket, Prefix=self.prefix
            )
            for found in [upload for page in pages for upload in page.get("Uploads", ())]:
                if found.get("Initiated", datetime.min.replace(tzinfo=UTC)) < before:
                    self.client.abort_multipart_upload(
                        Bucket=self.bucket, Key=found["Key"], UploadId=found["UploadId"]
                    )
                    ended += 1
        return ended

    def at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + key}


def chunks_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the parts of the file with their numbers, from 1."""
    with path.open("rb") as raw:
        number = 0
        while chunk := raw.read(PART_BYTES):
            number += 1
            yield number, chunk


def checksum_of(chunk: bytes) -> str:
    return base64.b64encode(hashlib.sha256(chunk).digest()).decode()


def batches(keys: Iterable[str]) -> Iterator[list[str]]:
    """Yield the keys, at most DELETED_AT_ONCE at a time."""
    some: list[str] = []
    for key in keys:
        some.append(key)
        if len(some) == DELETED_AT_ONCE:
            yield some
            some = []
    if some:
        yield some

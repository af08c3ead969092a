"""The contract of stores, on a folder and on a real S3 server; then what only one of them has."""

import hashlib
import os
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from cockpit.servers.ports import free_port
from pg.errors import Refused, Unreachable
from recovery.errors import Damaged, Taken
from recovery.stores import open_store
from recovery.stores import s3 as s3_module
from recovery.stores.s3 import S3Options, S3Store
from tests.partitions.seaweed import BUCKET, OWNER
from tests.recovery.stores import owner, s3_environment, seaweed, spoiler, store, url, use_folder, use_s3

__all__ = ["owner", "seaweed", "spoiler", "store", "url"]  # fixtures


def sha(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def file(tmp_path):
    def make(content, name="file"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return make


def put(store, file, key, content=b"content", **options):
    store.put(file(content), key, sha(content), **options)


# -- the contract -------------------------------------------------------------------------------------------
def test_what_is_put_is_there_with_its_sha256_and_comes_back_the_same(store, file, tmp_path):
    put(store, file, "a/b/one", b"first")
    found = store.head("a/b/one")
    assert (found.size_bytes, found.sha256) == (5, sha(b"first"))
    store.get("a/b/one", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"first"
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o600


def test_an_empty_file_is_an_object_too(store, file, tmp_path):
    put(store, file, "empty", b"")
    store.get("empty", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b""


def test_the_same_again_is_done_and_another_one_is_refused(store, spoiler, file):
    put(store, file, "one", b"first")
    put(store, file, "one", b"first")
    with pytest.raises(Taken, match="nothing was overwritten") as caught:
        put(store, file, "one", b"other")
    assert "a copy of this one" in caught.value.hint
    assert spoiler.read("one") == b"first"


def test_an_object_that_somebody_else_put_there_is_not_overwritten(store, spoiler, file):
    spoiler.write("one", b"theirs")
    with pytest.raises(Taken):
        put(store, file, "one", b"mine")
    assert spoiler.read("one") == b"theirs"


def test_of_two_who_put_at_once_one_is_told(store, spoiler, file, monkeypatch):
    head = store.head

    def head_and_lose(key):
        found = head(key)
        if found is None:  # the other one comes between our look and our put
            spoiler.write(key, b"theirs")
        return found

    monkeypatch.setattr(store, "head", head_and_lose)
    with pytest.raises(Taken):
        put(store, file, "raced", b"mine")
    assert spoiler.read("raced") == b"theirs"


def test_replacing_must_be_asked_for(store, spoiler, file):
    put(store, file, "one", b"first")
    put(store, file, "one", b"second", replace=True)
    assert spoiler.read("one") == b"second"
    assert store.head("one").sha256 == sha(b"second")


def test_what_is_not_there_is_said(store, tmp_path):
    assert store.head("nothing") is None
    with pytest.raises(FileNotFoundError, match="nothing is not there"):
        store.get("nothing", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_flipped_bit_is_noticed_and_nothing_of_it_is_left(store, spoiler, file, tmp_path):
    put(store, file, "one", os.urandom(100_000))
    spoiler.flip_a_bit("one")
    with pytest.raises(Damaged, match="its SHA-256 differs"):
        store.get("one", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_lists_are_read_to_the_last_page_and_deletes_to_the_last_batch(store, file, monkeypatch):
    monkeypatch.setattr(s3_module, "LISTED_AT_ONCE", 3)
    monkeypatch.setattr(s3_module, "DELETED_AT_ONCE", 3)
    names = [f"wal/{number:02}" for number in range(8)]
    for name in names:
        put(store, file, name, name.encode())
    put(store, file, "base/x", b"x")
    assert [found.key for found in store.list("wal/")] == names
    assert [found.key for found in store.list()] == ["base/x", *names]
    assert {found.size_bytes for found in store.list("wal/")} == {6}
    assert store.delete([*names[:7], "wal/never"]) == {}
    assert [found.key for found in store.list()] == ["base/x", "wal/07"]


def test_a_prefix_need_not_end_at_a_folder(store, file):
    put(store, file, "wal/0000000100000001/a")
    put(store, file, "wal/0000000200000001/b")
    assert [found.key for found in store.list("wal/00000002")] == ["wal/0000000200000001/b"]
    assert list(store.list("none/")) == []


# -- a folder -----------------------------------------------------------------------------------------------
@pytest.fixture
def folder(own_home, monkeypatch):
    use_folder(own_home, monkeypatch)
    return own_home / "nas"


def test_a_folder_that_is_not_mounted_is_not_made(folder, file):
    folder.rmdir()
    with pytest.raises(Unreachable, match="the folder is not there"):
        put(open_store(), file, "one")
    assert not folder.exists()


def test_sha256sum_can_check_the_folder_without_us(folder, file):
    put(open_store(), file, "a/one", b"first")
    assert (folder / "a/one.sha256").read_text() == f"{sha(b'first')}  one\n"


def test_a_copy_that_was_cut_short_is_no_object_and_is_cleared_away(folder, file, monkeypatch):
    def stop(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recovery.stores.local.write_sums", stop)
    with pytest.raises(Unreachable, match="No space left"):
        put(open_store(), file, "one")
    (folder / ".partial-one.x").touch()  # a killed one leaves that
    assert list(open_store().list()) == []
    assert open_store().end_unfinished(datetime.now(UTC) + timedelta(seconds=1)) == 1
    assert [path.name for path in folder.iterdir()] == []


# -- S3 -----------------------------------------------------------------------------------------------------
@pytest.fixture
def bucket(seaweed, monkeypatch, request):
    use_s3(seaweed, monkeypatch, request.node.name)
    made = open_store()
    yield made
    made.client.close()


@pytest.fixture
def large(file, monkeypatch):
    """A file of three parts."""
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 << 20)
    return file(hashlib.shake_256(b"large").digest(11 << 20), "large")


def interrupt_after(store, monkeypatch, parts):
    """Let the connection break after so many parts; return the numbers of those that were sent."""
    sent, real = [], store.client.upload_part

    def send(**given):
        if len(sent) == parts:
            raise ConnectionError("the cable")
        sent.append(given["PartNumber"])
        return real(**given)

    monkeypatch.setattr(store.client, "upload_part", send)
    return sent


def test_a_large_file_goes_in_parts_and_an_interrupted_one_goes_on(bucket, large, tmp_path, monkeypatch):
    digest = sha(large.read_bytes())
    with monkeypatch.context() as patch:
        sent = interrupt_after(bucket, patch, 2)
        with pytest.raises(ConnectionError):
            bucket.put(large, "large", digest)
        assert sent == [1, 2]
    assert bucket.head("large") is None
    sent = interrupt_after(bucket, monkeypatch, 9)
    bucket.put(large, "large", digest)
    assert sent == [3], "what is there is not sent again"
    bucket.get("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()
    assert bucket.uploads_of("large") == []


def test_the_rest_of_another_file_is_thrown_away(bucket, large, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(bucket, patch, 2)
        with pytest.raises(ConnectionError):
            bucket.put(large, "large", sha(large.read_bytes()))
    content = bytearray(large.read_bytes())
    content[7 << 20] ^= 1
    large.write_bytes(content)
    sent = interrupt_after(bucket, monkeypatch, 9)
    bucket.put(large, "large", sha(bytes(content)))
    assert sent == [1, 2, 3]
    bucket.get("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == bytes(content)


def test_what_was_never_finished_is_cleared_away(bucket, large, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(bucket, patch, 1)
        with pytest.raises(ConnectionError):
            bucket.put(large, "large", sha(large.read_bytes()))
    now = datetime.now(UTC)
    assert bucket.end_unfinished(now - timedelta(days=1)) == 0
    assert bucket.end_unfinished(now + timedelta(days=1)) == 1
    assert bucket.uploads_of("large") == []


def test_a_server_that_does_not_know_the_condition_is_asked_beforehand(bucket, file):
    def not_implemented(params, **_):
        if "If-None-Match" in params["headers"]:
            raise ClientError({"Error": {"Code": "NotImplemented"}}, "PutObject")

    bucket.client.meta.events.register("before-call.s3.PutObject", not_implemented)
    put(bucket, file, "one", b"first")
    with pytest.raises(Taken):
        put(bucket, file, "one", b"second")


@pytest.mark.parametrize(
    ("variables", "bucket_name", "kind", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, BUCKET, Refused, "does not let us in"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, BUCKET, Refused, "does not let us in"),
        ({}, "no-such-bucket", Refused, "there is no bucket no-such-bucket"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, BUCKET, Unreachable, "Could not connect"),
    ],
    ids=["secret", "user", "bucket", "down"],
)
def test_what_is_set_wrong_is_said(bucket, file, monkeypatch, variables, bucket_name, kind, words):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    wrong = S3Store(f"s3://{bucket_name}/x")
    with pytest.raises(kind, match=words) as caught:
        put(wrong, file, "one")
    assert caught.value.hint
    wrong.client.close()


def test_class_lock_and_encryption_go_along_with_cold_objects(seaweed, owner, file, monkeypatch):
    for name, value in s3_environment(seaweed, OWNER).items():
        monkeypatch.setenv(name, value)
    owner.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    made = S3Store("s3://locked/x", S3Options("GLACIER_IR", 3, "compliance"))
    put(made, file, "base/one", b"first", is_cold=True)
    put(made, file, "wal/one", b"first")
    cold, warm = (owner.head_object(Bucket="locked", Key=f"x/{kind}/one") for kind in ("base", "wal"))
    assert (cold.get("StorageClass"), warm.get("StorageClass", "STANDARD")) == ("GLACIER_IR", "STANDARD")
    assert cold["ObjectLockMode"] == "COMPLIANCE"
    assert timedelta(days=2) < cold["ObjectLockRetainUntilDate"] - datetime.now(UTC) <= timedelta(days=3)
    with pytest.raises(ClientError):
        owner.delete_object(Bucket="locked", Key="x/base/one", VersionId=cold["VersionId"])
    made.client.close()


@pytest.mark.parametrize(
    ("sse", "arguments"),
    [
        ("", {}),
        ("AES256", {"ServerSideEncryption": "AES256"}),
        ("aws:kms", {"ServerSideEncryption": "aws:kms"}),
        ("aws:kms:alias/x", {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/x"}),
        (
            "aws:kms:arn:aws:kms:eu-west-1:1:key/2",
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "arn:aws:kms:eu-west-1:1:key/2"},
        ),
    ],
)
def test_encryption_by_the_server_is_asked_for(sse, arguments):
    assert S3Options(sse=sse).arguments(is_cold=False, now=datetime.now(UTC)) == arguments


def test_a_port_that_nobody_listens_on_is_unreachable(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    away = S3Store(f"s3://{BUCKET}/x")
    for act in (lambda: away.head("one"), lambda: list(away.list()), lambda: away.delete(["one"])):
        with pytest.raises(Unreachable):
            act()
    away.client.close()

"""Archives go to a real S3 server, and nothing is dropped, replaced or brought back that is not whole there."""

import hashlib

import pytest
from django.apps import apps
from django.conf import settings

from cockpit.servers.ports import free_port
from cockpit.servers.running import Running
from partitions import upload
from partitions.archive import check_archives, path_of
from partitions.archive_file import label_of
from partitions.attach import attach_archive
from partitions.checks import look_at_store
from partitions.errors import ArchiveDamaged
from partitions.models import Archive
from partitions.s3 import S3Store
from pg.errors import Refused, Unreachable
from tests.partitions.conftest import make_partition
from tests.partitions.seaweed import BUCKET, USER, SeaweedFS
from tests.partitions.test_archive import ROWS, is_there, upkeep

DONE = [("archive", None), ("detach", None), ("drop", None)]


@pytest.fixture(scope="module")
def seaweed(make_home):
    with Running(SeaweedFS(make_home())) as running:
        yield running
        running.kill()
        running.server.remove_sockets()


@pytest.fixture
def owner(seaweed):
    client = seaweed.server.client()
    yield client
    client.close()


@pytest.fixture
def store(seaweed, monkeypatch, request):
    """The store as the settings make it; each test has a prefix of its own."""
    values = {
        "AWS_ENDPOINT_URL": seaweed.server.url(),
        "AWS_ACCESS_KEY_ID": USER,
        "AWS_SECRET_ACCESS_KEY": seaweed.server.password(),
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("partitions.s3.TRIES", 1)
    prefix = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    monkeypatch.setattr(settings, "PARTITIONS_ARCHIVE_S3_URL", f"s3://{BUCKET}/{prefix}", raising=False)
    apps.get_app_config("partitions").ready()
    made = upload.store()
    assert isinstance(made, S3Store)
    yield made
    forget(made)
    upload.register_store(None)


def forget(store: S3Store) -> None:
    """Close its client: the next use makes one with the environment of then."""
    if "client" in vars(store):
        store.client.close()
        del store.client


def content_of(owner, address: str) -> bytes:
    bucket, _, key = address.removeprefix("s3://").partition("/")
    return owner.get_object(Bucket=bucket, Key=key)["Body"].read()


def spoil(owner, address: str) -> None:
    """Put other bytes under the same key, with the metadata of the old ones."""
    bucket, _, key = address.removeprefix("s3://").partition("/")
    known = owner.head_object(Bucket=bucket, Key=key)["Metadata"]
    content = bytearray(content_of(owner, address))
    content[len(content) // 2] ^= 0xFF
    owner.put_object(Bucket=bucket, Key=key, Body=bytes(content), Metadata=known)


# -- files --------------------------------------------------------------------------------------------------
def test_a_large_file_goes_up_in_parts_with_its_sha256_and_comes_back_the_same(store, owner, tmp_path):
    path, back = tmp_path / "large", tmp_path / "back"
    path.write_bytes(hashlib.shake_256(b"large").digest(17 << 20))
    address = store.put(path, "a/large")
    assert address == f"s3://{BUCKET}/{store.prefix}a/large"
    known = owner.head_object(Bucket=BUCKET, Key=f"{store.prefix}a/large", ChecksumMode="ENABLED")
    assert known["Metadata"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert known["ChecksumSHA256"].endswith("-3"), "the checksum of three parts"
    store.get("a/large", back)
    assert back.read_bytes() == path.read_bytes()
    assert back.stat().st_mode & 0o777 == 0o600


def test_the_same_file_again_is_done_and_another_one_is_refused(store, owner, tmp_path):
    path = tmp_path / "one"
    path.write_text("first")
    address = store.put(path, "one")
    assert store.put(path, "one") == address
    path.write_text("second")
    with pytest.raises(Refused, match="another object has that key") as caught:
        store.put(path, "one")
    assert "nothing was overwritten" in caught.value.hint
    assert content_of(owner, address) == b"first"


@pytest.mark.parametrize("size_bytes", [5, 9 << 20])
def test_of_two_who_put_at_once_the_server_takes_one(store, owner, tmp_path, monkeypatch, size_bytes):
    path = tmp_path / "mine"
    path.write_bytes(b"m" * size_bytes)
    key, head = f"{store.prefix}raced", store.head

    def head_and_lose(key):
        found = head(key)
        if found is None:  # the other one comes between our look and our put
            owner.put_object(Bucket=BUCKET, Key=key, Body=b"theirs")
        return found

    monkeypatch.setattr(store, "head", head_and_lose)
    with pytest.raises(Refused, match="another object has that key"):
        store.put(path, "raced")
    assert owner.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"theirs"


def test_a_server_that_does_not_know_the_condition_is_asked_beforehand(store, owner, tmp_path):
    from botocore.exceptions import ClientError

    def not_implemented(params, **_):
        if "If-None-Match" in params["headers"]:
            raise ClientError({"Error": {"Code": "NotImplemented"}}, "PutObject")

    store.client.meta.events.register("before-call.s3.PutObject", not_implemented)
    path = tmp_path / "one"
    path.write_text("first")
    address = store.put(path, "one")
    assert content_of(owner, address) == b"first"
    path.write_text("second")
    with pytest.raises(Refused, match="another object"):
        store.put(path, "one")


def test_what_is_not_there_is_said(store, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing is not there"):
        store.get("nothing", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


# -- partitions ---------------------------------------------------------------------------------------------
def test_an_expired_partition_is_archived_copied_and_only_then_dropped(events, store, owner):
    name = make_partition(-9, ROWS)
    assert upkeep() == DONE
    assert not is_there(name)
    archive = Archive.objects.get()
    assert archive.uploaded_to == f"s3://{BUCKET}/{store.prefix}partitions/{archive.location}"
    assert hashlib.sha256(content_of(owner, archive.uploaded_to)).hexdigest() == archive.sha256
    label = content_of(owner, f"{archive.uploaded_to}.json")
    assert label == label_of(path_of(archive)).read_bytes()


def test_a_lost_file_is_fetched_and_attached(events, store):
    make_partition(-9, ROWS)
    upkeep()
    archive = Archive.objects.get()
    path_of(archive).unlink()
    attach_archive(archive)
    assert path_of(archive).exists()


def test_a_damaged_object_is_not_attached_and_a_mended_one_is(events, store, owner):
    make_partition(-9, ROWS)
    upkeep()
    archive = Archive.objects.get()
    whole = path_of(archive).read_bytes()
    path_of(archive).unlink()
    spoil(owner, archive.uploaded_to)
    with pytest.raises(ArchiveDamaged, match="is not the file that was verified"):
        attach_archive(archive)
    assert not is_there(archive.partition_name)
    assert list(path_of(archive).parent.glob("*.gz*")) == [label_of(path_of(archive))], (
        "nothing is left of it"
    )
    assert [problem is None for _, problem in check_archives()] == [False]
    assert Archive.objects.get().state == "damaged"
    key = archive.uploaded_to.removeprefix(f"s3://{BUCKET}/")
    owner.put_object(Bucket=BUCKET, Key=key, Body=whole)
    assert [problem for _, problem in check_archives()] == [None]
    attach_archive(archive)


@pytest.mark.parametrize(
    ("variables", "bucket", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, BUCKET, ["does not let us in", "AWS_SECRET_ACCESS_KEY"]),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, BUCKET, ["does not let us in", "AWS_ACCESS_KEY_ID"]),
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            BUCKET,
            ["Unable to locate credentials", "set AWS_ACCESS_KEY_ID"],
        ),
        ({"AWS_ENDPOINT_URL": "nonsense"}, BUCKET, ["Invalid endpoint: nonsense", "see AWS_ENDPOINT_URL"]),
        ({}, "no-such-bucket", ["there is no bucket no-such-bucket", "create it"]),
    ],
)
def test_what_is_set_wrong_is_said_and_nothing_is_dropped(
    events, store, monkeypatch, variables, bucket, words
):
    name, right = make_partition(-9, ROWS), store.bucket
    with monkeypatch.context() as patch:
        for variable, value in variables.items():
            patch.setenv(variable, value) if value else patch.delenv(variable)
        store.bucket = bucket
        ((action, error),) = upkeep()
    assert action == "archive"
    for word in [*words, "HINT: ", "the partition stays where it is"]:
        assert word in error
    assert is_there(name)
    store.bucket = right
    forget(store)
    assert upkeep() == DONE, "what was archived is only copied, then dropped"
    assert Archive.objects.count() == 1


def test_a_key_that_somebody_else_has_is_not_written_over_and_nothing_is_dropped(
    events, store, owner, monkeypatch
):
    name = make_partition(-9, ROWS)
    put = store.put

    def put_second(path, key):
        owner.put_object(Bucket=BUCKET, Key=store.prefix + key, Body=b"theirs")
        return put(path, key)

    monkeypatch.setattr(store, "put", put_second)
    ((_, error),) = upkeep()
    assert "another object has that key" in error
    assert is_there(name)


def refuse_to_drop_without_the_server(name: str) -> None:
    ((action, error),) = upkeep()
    assert action == "archive"
    assert "was not copied to the object store" in error
    assert "HINT: see whether the server of AWS_ENDPOINT_URL runs" in error
    assert is_there(name)
    assert not Archive.objects.get().uploaded_to


def finish_with_the_server(name: str) -> None:
    assert upkeep() == DONE
    assert not is_there(name)
    assert Archive.objects.get().uploaded_to


def test_a_server_that_is_down_keeps_the_partition_and_a_later_run_finishes(events, store, monkeypatch):
    name = make_partition(-9, ROWS)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        refuse_to_drop_without_the_server(name)
    forget(store)
    finish_with_the_server(name)


@pytest.mark.deep  # 20 s until the server that was killed takes objects again
def test_a_server_that_was_killed_is_waited_for_with_everything_in_place(events, store, seaweed):
    name = make_partition(-9, ROWS)
    store.client.list_objects_v2(Bucket=BUCKET)  # the connection is open when it dies
    seaweed.kill()
    refuse_to_drop_without_the_server(name)
    seaweed.start()
    finish_with_the_server(name)


def test_a_store_that_is_away_damages_no_archive(events, store, monkeypatch):
    make_partition(-9, ROWS)
    upkeep()
    archive = Archive.objects.get()
    path_of(archive).unlink()
    forget(store)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unreachable):
        attach_archive(archive)
    ((_, problem),) = check_archives()
    assert "Could not connect" in problem
    assert Archive.objects.get().state == "verified"


def test_doctor_says_whether_the_store_answers(store, monkeypatch):
    (finding,) = look_at_store()
    assert finding.ok
    assert finding.detail.startswith(f"s3://{BUCKET}/")
    monkeypatch.setattr(store, "bucket", "nobody-made-it")
    (finding,) = look_at_store()
    assert not finding.ok
    assert "there is no bucket nobody-made-it" in finding.detail
    assert "ARCHIVE_S3_URL" in finding.hint


def test_without_a_store_doctor_finds_nothing_wrong():
    (finding,) = look_at_store()
    assert finding.ok

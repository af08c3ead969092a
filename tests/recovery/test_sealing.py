"""What is encrypted opens with its key and under its name, or not at all."""

import hashlib

import pytest

from recovery import sealing
from recovery.errors import Damaged, NoKey
from recovery.sealing import Keys, is_sealed, make_key, read_keys, seal, unseal

OLD, NEW = make_key("old"), make_key("new")
CHUNK = sealing.CHUNK_BYTES
NAME = "wal/0000000100000000/x.gz"


@pytest.fixture
def sealed(tmp_path):
    """Seal a content; return where the sealed file lies."""

    def make(content, keys=NEW, name=NAME, to="sealed"):
        (tmp_path / "plain").write_bytes(content)
        seal(tmp_path / "plain", tmp_path / to, name, read_keys(keys), hashlib.sha256(content).hexdigest())
        return tmp_path / to

    return make


def opened(path, keys=NEW, name=NAME):
    target = path.with_name("opened")
    try:
        unseal(path, target, name, read_keys(keys))
        return target.read_bytes()
    except BaseException:
        assert not target.exists(), "nothing of it is to be used"
        raise


@pytest.mark.parametrize("size_bytes", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_what_was_sealed_comes_back(sealed, size_bytes):
    content = hashlib.shake_256(b"x").digest(size_bytes)
    path = sealed(content)
    assert is_sealed(path)
    assert content[:64] not in path.read_bytes() or size_bytes < 16
    assert opened(path) == content


def test_the_first_key_seals_and_all_open(sealed):
    path = sealed(b"secret", keys=OLD)
    assert opened(path, keys=f"{NEW},{OLD}") == b"secret"
    assert (
        unseal(sealed(b"secret", keys=f"{NEW},{OLD}"), path.with_name("opened"), NAME, read_keys(NEW))
        == "new"
    )


def test_without_the_key_it_is_named_and_with_a_wrong_one_of_that_name_nothing_opens(sealed):
    path = sealed(b"secret", keys=OLD)
    with pytest.raises(NoKey, match="encrypted with key old, which we do not have"):
        opened(path, keys=NEW)
    with pytest.raises(Damaged, match="cannot be opened"):
        opened(path, keys=make_key("old"))


def test_an_object_under_another_name_does_not_open(sealed):
    with pytest.raises(Damaged):
        opened(sealed(b"secret"), name="wal/0000000100000000/y.gz")


@pytest.mark.parametrize("position", [0, 7, 12, 50, CHUNK, -1])
def test_a_flipped_bit_anywhere_is_noticed(sealed, position):
    path = sealed(b"s" * (CHUNK + 100))
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises((Damaged, NoKey)):
        opened(path)


def test_chunks_cannot_be_cut_off_doubled_or_moved(sealed):
    path = sealed(bytes(2 * CHUNK) + b"end")
    whole, step = path.read_bytes(), CHUNK + sealing.TAG_BYTES
    head = len(whole) - 2 * step - 3 - sealing.TAG_BYTES
    first, second, last = (
        whole[head : head + step],
        whole[head + step : head + 2 * step],
        whole[head + 2 * step :],
    )
    for chunks in (
        [first, second],
        [first],
        [],
        [second, first, last],
        [first, first, second, last],
        [first, last],
    ):
        path.write_bytes(whole[:head] + b"".join(chunks))
        with pytest.raises(Damaged):
            opened(path)


def test_the_same_again_gives_the_same_bytes_and_others_give_others(sealed):
    """So an interrupted upload goes on, and no two contents share their nonces."""
    first, again, other = sealed(b"a" * 99), sealed(b"a" * 99, to="again"), sealed(b"b" * 99, to="other")
    assert first.read_bytes() == again.read_bytes()
    begin = len(sealing.MAGIC) + 1 + len("new")
    salt = slice(begin, begin + sealing.SALT_BYTES)
    assert first.read_bytes()[salt] != other.read_bytes()[salt]
    assert sealed(b"a" * 99, name="b", to="named").read_bytes()[salt] != first.read_bytes()[salt]


def test_a_file_that_changed_meanwhile_is_not_sealed(tmp_path):
    (tmp_path / "plain").write_bytes(b"changed")
    with pytest.raises(Damaged, match="its SHA-256 differs"):
        seal(
            tmp_path / "plain",
            tmp_path / "sealed",
            "x",
            read_keys(NEW),
            hashlib.sha256(b"before").hexdigest(),
        )
    assert not (tmp_path / "sealed").exists()


@pytest.mark.parametrize(
    "text",
    ["secret", "id:secret", "id:c2hvcnQ=", ":" + NEW.partition(":")[2], f"{NEW},{NEW}", "a b:x"],
    ids=[
        "no id",
        "no base64",
        "too short",
        "empty id",
        "one id twice",
        "a space",
    ],  # NEW differs in each process
)
def test_keys_that_cannot_be_read_are_refused_without_repeating_them(text):
    with pytest.raises(NoKey) as caught:
        read_keys(text)
    assert "secret" not in str(caught.value)
    assert NEW.partition(":")[2] not in str(caught.value)


def test_without_keys_nothing_is_sealed(tmp_path):
    assert read_keys("").current is None
    (tmp_path / "plain").write_bytes(b"x")
    with pytest.raises(NoKey, match="is not set"):
        seal(tmp_path / "plain", tmp_path / "sealed", "x", Keys({}), "0" * 64)


def test_keys_do_not_show_in_what_is_printed():
    assert NEW.partition(":")[2] not in repr(read_keys(NEW))

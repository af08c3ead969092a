"""archive_command and restore_command, as PostgreSQL runs them: by their path, with nothing of ours around."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from recovery import wal_archive

SEGMENT_BYTES = 1 << 20
SYSTEM = 7300000000000000001
NAME = "000000010000000000000005"


def segment(name=NAME, timeline=None, system=SYSTEM, magic=0xD118, size=SEGMENT_BYTES, fill=b"x"):
    """The bytes of a WAL file: a long page header as its name says, and something behind it."""
    number = int(name[8:16], 16) * ((1 << 32) // SEGMENT_BYTES) + int(name[16:24], 16)
    line = int(name[:8], 16) if timeline is None else timeline
    header = struct.pack(
        "=HHIQIxxxxQII", magic, 2, line, number * SEGMENT_BYTES, 0, system, SEGMENT_BYTES, 8192
    )
    return header.ljust(size, fill)[:size]


@pytest.fixture
def pg_wal(tmp_path):
    folder = tmp_path / "pg_wal"
    folder.mkdir()

    def write(name=NAME, raw=None):
        (folder / name).write_bytes(segment(name) if raw is None else raw)
        return folder / name

    return write


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "backups"


def run(*arguments):
    argv = [sys.executable, "-IS", wal_archive.__file__, *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd="/", timeout=60)
    return done.returncode, done.stderr


def stored(repository, name=NAME):
    return repository / "wal" / name[:16] / f"{name}.gz"


def files_below(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("level", [0, 1, 9])
def test_a_pushed_segment_comes_back_the_same(pg_wal, repository, tmp_path, level):
    source = pg_wal()
    assert run("push", source, repository, f"--level={level}") == (0, "")
    assert run("get", NAME, tmp_path / "back", repository) == (0, "")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert stored(repository).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["00000002.history", f"{NAME}.00000028.backup", f"{NAME}.partial"])
def test_other_wal_files_are_kept_too(pg_wal, repository, tmp_path, name):
    pg_wal(name, b"1\t0/5000000\tno recovery target specified\n")
    assert run("push", tmp_path / "pg_wal" / name, repository) == (0, "")
    assert run("get", name, tmp_path / "back", repository) == (0, "")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "pg_wal" / name).read_bytes()


def test_pushing_the_same_again_is_success(pg_wal, repository):
    """PostgreSQL asks again when it crashed before it noted the success."""
    source = pg_wal()
    assert run("push", source, repository)[0] == 0
    before = stored(repository).stat().st_mtime_ns
    assert run("push", source, repository, "--level=9") == (0, "")
    assert stored(repository).stat().st_mtime_ns == before


def test_another_segment_of_the_same_name_is_refused(pg_wal, repository, tmp_path):
    """A copy of the server, with the same settings, archives into the same place."""
    assert run("push", pg_wal(), repository)[0] == 0
    code, words = run("push", pg_wal(raw=segment(fill=b"y")), repository)
    assert code == 1
    assert "does a copy of this server archive here?" in words
    run("get", NAME, tmp_path / "back", repository)
    assert (tmp_path / "back").read_bytes() == segment()


def test_another_server_s_wal_is_refused(pg_wal, repository):
    assert run("push", pg_wal(), repository)[0] == 0
    other = "000000010000000000000006"
    code, words = run("push", pg_wal(other, segment(other, system=SYSTEM + 1)), repository)
    assert code == 1
    assert "give each server a folder of its own" in words
    assert not stored(repository, other).exists()


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (segment()[:100], "has 100 bytes, not"),
        (b"", "has 0 bytes"),
        (segment() + b"x", "bytes, not"),
        (segment("000000010000000000000006"), "its name says 0/500000"),
        (segment(timeline=2), "is of timeline 2, its name says 1"),
        (bytes(SEGMENT_BYTES), "does not begin as a WAL segment does"),
    ],
    ids=["short", "empty", "long", "another address", "a later timeline", "zeros"],
)
def test_what_is_not_the_segment_of_its_name_is_refused(pg_wal, repository, raw, problem):
    code, words = run("push", pg_wal(raw=raw), repository)
    assert code == 1
    assert problem in words
    assert not stored(repository).exists()


def test_the_first_segment_of_a_timeline_begins_with_its_parent_s_pages(pg_wal, repository):
    name = "000000020000000000000005"
    assert run("push", pg_wal(name, segment(name, timeline=1)), repository) == (0, "")


def test_a_missing_file_is_the_end_of_wal_and_a_damaged_one_is_not(pg_wal, repository, tmp_path):
    assert run("get", NAME, tmp_path / "back", repository) == (1, "")
    assert run("push", pg_wal(), repository)[0] == 0
    whole = stored(repository).read_bytes()
    for spoilt in (whole[:-5], whole + b"x", whole[:50] + bytes([whole[50] ^ 1]) + whole[51:], b""):
        stored(repository).write_bytes(spoilt)
        code, words = run("get", NAME, tmp_path / "back", repository)
        assert code > 125, "at 125 or less PostgreSQL takes damage for the end of history"
        assert NAME in words
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("position", [0, 11, 700, -6])
def test_a_flipped_bit_anywhere_is_noticed(pg_wal, repository, tmp_path, position):
    noise = segment()[:40] + os.urandom(SEGMENT_BYTES - 40)
    assert run("push", pg_wal(raw=noise), repository, "--level=0")[0] == 0
    raw = bytearray(stored(repository).read_bytes())
    raw[position] ^= 4
    stored(repository).write_bytes(raw)
    assert run("get", NAME, tmp_path / "back", repository)[0] == 200


def test_a_full_disk_leaves_nothing_and_is_tried_again(pg_wal, repository):
    source = pg_wal(raw=segment()[:40] + os.urandom(SEGMENT_BYTES - 40))
    full = f"ulimit -f 100; exec {sys.executable} -IS {wal_archive.__file__} push {source} {repository}"
    done = subprocess.run(["bash", "-c", f"trap '' XFSZ; {full}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert files_below(repository) == [wal_archive.OWNER]
    assert run("push", source, repository) == (0, "")


def test_a_name_that_is_no_wal_file_is_refused(pg_wal, repository):
    assert run("push", pg_wal("notes.txt", b"x"), repository)[0] == 1
    assert run("get", "../../etc/passwd", "/dev/null", repository)[0] == 1


def test_it_needs_nothing_but_the_standard_library():
    lines = Path(wal_archive.__file__).read_text().splitlines()
    names = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert names <= set(sys.stdlib_module_names), "it is copied to where nothing else of ours is"

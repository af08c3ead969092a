"""Copies of a real backup, each spoilt in one way: the files' check names what is wrong, and the verdict is kept."""

import json

import pytest
from django.core.management import call_command

from recovery import catalogue, manifest
from recovery.models import Backup, TestResult
from recovery.verify import verify
from tests.recovery.conftest import biggest


def flip_a_byte(folder):
    path = biggest(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return f"file dump/{path.name} has other contents: its SHA-256 differs"


def truncate(folder):
    path = biggest(folder)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 1)
    return f"file dump/{path.name} has {size - 1} bytes, not {size}"


def lose_a_data_file(folder):
    path = biggest(folder)
    path.unlink()
    return f"file dump/{path.name} is missing"


def lose_the_table_of_contents(folder):
    (folder / "dump" / "toc.dat").unlink()
    return "file dump/toc.dat is missing"


def lose_the_roles(folder):
    (folder / "globals.sql").unlink()
    return "file globals.sql is missing"


def add_a_file(folder):
    (folder / "dump" / "9999.dat.gz").write_bytes(b"")
    return "file dump/9999.dat.gz is not in the manifest"


def lose_the_manifest(folder):
    (folder / manifest.NAME).unlink()
    return "manifest.json is missing"


def spoil_the_manifest(folder):
    (folder / manifest.NAME).write_text("{")
    return "manifest.json cannot be read"


def rewrite_the_manifest(folder):
    body = json.loads((folder / manifest.NAME).read_text())
    body["files"] = body["files"][1:]
    manifest.write_json(folder / manifest.NAME, body)
    return "manifest.json is not the one that was written"


def lose_the_folder(folder):
    folder.rename(folder.with_name("elsewhere"))
    return f"the folder {folder} is missing"


SPOILT = [
    flip_a_byte,
    truncate,
    lose_a_data_file,
    lose_the_table_of_contents,
    lose_the_roles,
    add_a_file,
    lose_the_manifest,
    spoil_the_manifest,
    rewrite_the_manifest,
    lose_the_folder,
]


def test_an_unspoilt_copy_is_whole(copy, folder):
    assert manifest.check_files(folder, copy.manifest_sha256) == []


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_a_spoilt_copy_is_found_out_and_named(copy, folder, spoil, capsys):
    wanted = spoil(folder)
    verdict = verify(str(copy.pk))
    assert len(verdict.problems) == 1
    assert wanted in verdict.problems[0]
    row = Backup.objects.get(pk=copy.pk)
    assert (row.status, wanted in row.error) == ("damaged", True)
    drill = TestResult.objects.get()
    assert (drill.test_type, drill.test_status, drill.data_verification_passed) == (
        "full_restore",
        "failed",
        False,
    )
    with pytest.raises(SystemExit) as caught:
        call_command("backup", "check", str(copy.pk))
    assert caught.value.code == 1
    assert wanted in capsys.readouterr().err


def test_a_manifest_of_a_later_format_is_not_guessed_at(copy, folder):
    body = json.loads((folder / manifest.NAME).read_text()) | {"format": 2}
    manifest.write_json(folder / manifest.NAME, body)
    assert "has format 2, not 1" in manifest.check_files(folder, None)[0]


def test_everything_is_for_its_owner_alone(copy, backup_dir):
    open_to_others = [path for path in backup_dir.rglob("*") if path.stat().st_mode & 0o077]
    assert not open_to_others


def test_the_original_is_complete_and_unverified(copy):
    assert (copy.status, copy.verified_at) == ("complete", None)
    assert copy.row_counts["agents.registry"] == 20
    assert copy.size_bytes == manifest.size_of(catalogue.folder_of(copy))

"""Which of PostgreSQL's programs are used, and what is said of them when they fail."""

import sys

import pytest

from recovery import tools
from recovery.errors import ToolFailed, UnfitTools
from recovery.tools import find_tools, find_tools_to_load, run


def make_tools(folder, version, names=tools.PROGRAMS):
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version} (Debian)'\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Let only folders made here be looked at, in this order."""

    def install(*versions):
        folders = [make_tools(tmp_path / f"{number}", version) for number, version in enumerate(versions)]
        monkeypatch.setattr(tools, "candidate_folders", lambda: folders)
        return folders

    return install


@pytest.mark.parametrize(
    ("versions", "server", "chosen"),
    [
        (["18.6", "16.4"], 16, "16.4"),
        (["18.6", "17.1"], 16, "17.1"),
        (["15.3", "18.6"], 16, "18.6"),
        (["16.1", "16.4"], 16, "16.1"),
        (["19beta1", "18.6"], 18, "18.6"),
    ],
)
def test_the_servers_own_version_comes_first_then_the_next_newer(installed, versions, server, chosen):
    installed(*versions)
    assert find_tools(server).version == chosen


@pytest.mark.parametrize(("dumped_by", "chosen"), [("15.3", "16.4"), ("18.6", "18.6"), ("17.1", "18.6")])
def test_a_dump_is_loaded_by_programs_as_new_as_those_that_made_it(installed, dumped_by, chosen):
    installed("16.4", "18.6")
    assert find_tools_to_load(dumped_by, 16).version == chosen


def test_only_older_ones_are_refused_with_a_hint(installed):
    installed("15.3", "16.4")
    with pytest.raises(
        UnfitTools, match=r"the server is PostgreSQL 17, pg_dump is older: 15\.3 in"
    ) as caught:
        find_tools(17)
    assert "postgresql-client-17" in caught.value.hint
    assert "PG_BIN_DIR" in caught.value.hint


def test_none_at_all_are_refused_with_a_hint(installed):
    installed()
    with pytest.raises(UnfitTools, match="no pg_dump, pg_dumpall, pg_restore"):
        find_tools(17)


def test_a_folder_that_lacks_one_program_does_not_count(tmp_path, settings):
    settings.PG_BIN_DIR = str(make_tools(tmp_path / "half", "18.6", ["pg_dump"]))
    with pytest.raises(UnfitTools, match="half"):
        find_tools(18)


def test_a_folder_that_was_named_is_the_only_one_looked_at(tmp_path, settings):
    settings.PG_BIN_DIR = str(make_tools(tmp_path / "mine", "15.3"))
    with pytest.raises(UnfitTools, match=r"15\.3 in .*mine"):
        find_tools(18)


def test_the_programs_of_this_machine_fit_the_wheels_server(settings):
    settings.PG_BIN_DIR = ""
    assert find_tools(18).major == 18


# -- running ------------------------------------------------------------------------------------------------
def python(text):
    run([sys.executable, "-c", text], {})


def test_a_programs_error_is_told():
    with pytest.raises(ToolFailed, match=r"ended with 3: x: error: broken$"):
        python("import sys; print('x: error: broken'); print('more'); sys.exit(3)")


def test_a_signal_is_named():
    with pytest.raises(ToolFailed, match="was killed by SIGKILL"):
        python("import os; os.kill(os.getpid(), 9)")


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("error: could not write: No space left on device", "disk"),
        ("error: permission denied for table x", "own the database"),
        ('error: role "bob" does not exist', "globals.sql"),
        ("error: something else", "run the same command again"),
    ],
)
def test_errors_have_a_hint(said, hint):
    with pytest.raises(ToolFailed) as caught:
        python(f"print({said!r}); raise SystemExit(1)")
    assert hint in caught.value.hint


def test_one_harmless_error_is_told_from_others():
    harmless = 'pg_restore: error: unrecognized configuration parameter "transaction_timeout"'
    ignored = "pg_restore: warning: errors ignored on restore: 1"
    assert ToolFailed("", words=f"{harmless}\n{ignored}").is_only("transaction_timeout")
    assert not ToolFailed("", words=harmless).is_only("transaction_timeout")
    assert not ToolFailed("", words=f"{harmless}\nx: error: y\n{ignored}").is_only("transaction_timeout")


def test_an_exception_beside_a_program_stops_it():
    with pytest.raises(ZeroDivisionError), tools.running(["sleep", "600"], {}):
        raise ZeroDivisionError

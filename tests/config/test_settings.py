"""Settings in processes of their own: what matters is what a fresh start does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PRODUCTION = {
    "PRODUCTION": "true",
    "SECRET_KEY": "0123456789abcdef" * 5,
    "ALLOWED_HOSTS": "smith.example.org",
}


def manage(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment = {**inherited, "MISTERSMITH_HOME": str(home), **variables}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_settings_at_all_work(tmp_path):
    assert manage(tmp_path, "check").returncode == 0


def test_the_secret_key_is_made_once_and_is_private(tmp_path):
    manage(tmp_path, "check")
    first = (tmp_path / "secret_key").read_text()
    manage(tmp_path, "check")
    assert (tmp_path / "secret_key").read_text() == first
    assert len(first) >= 50
    assert (tmp_path / "secret_key").stat().st_mode & 0o777 == 0o600


def test_production_settings_pass_the_deployment_check(tmp_path):
    result = manage(tmp_path, "check", "--deploy", "--fail-level", "WARNING", **PRODUCTION)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"DEBUG": "perhaps"}, ["DEBUG", "true or false"]),
        ({"MISTERSMITH_WEB_PORT": "web"}, ["MISTERSMITH_WEB_PORT", "whole number"]),
        ({"MISTERSMITH_WEB_PORT": "70000"}, ["MISTERSMITH_WEB_PORT=70000", "1 to 65535"]),
        ({"DATABASE_URL": "nonsense"}, ["DATABASE_URL", "postgresql://"]),
        ({"DATABASE_URL": "sqlite:///x.db"}, ["DATABASE_URL", "postgresql://"]),
        ({"ARCHIVE_S3_URL": "https://s3.example.org/b"}, ["ARCHIVE_S3_URL", "s3://bucket/prefix"]),
        ({"BACKUP_STORE_URL": "ftp://host/x"}, ["BACKUP_STORE_URL", "s3://bucket/prefix"]),
        ({"BACKUP_STORE_URL": "file://backups"}, ["BACKUP_STORE_URL", "file:///path/to/folder"]),
        ({"BACKUP_STORE_URL": "file:///a/../b"}, ["BACKUP_STORE_URL", "not the path of a folder"]),
        ({"MISTERSMITH_BACKUP_S3_SSE": "DES"}, ["MISTERSMITH_BACKUP_S3_SSE", "AES256"]),
        ({"MISTERSMITH_BACKUP_S3_LOCK_MODE": "x"}, ["MISTERSMITH_BACKUP_S3_LOCK_MODE", "compliance"]),
        ({"EMAIL_URL": "ftp://host"}, ["EMAIL_URL=ftp:...", "smtp+tls://"]),
    ],
)
def test_a_wrong_value_is_named_with_a_hint_and_exit_code_2(tmp_path, variables, words):
    result = manage(tmp_path, "check", **variables)
    assert result.returncode == 2
    assert "HINT: " in result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(
    "variables", [{"ALLOWED_HOSTS": "smith.example.org"}, {"MISTERSMITH_WEB_BIND": "0.0.0.0"}]
)
def test_debug_beyond_this_machine_is_refused(tmp_path, variables):
    result = manage(tmp_path, "check", DEBUG="true", **variables)
    assert result.returncode != 0
    assert "config.E001" in result.stderr
    assert "HINT" in result.stderr


def test_production_without_a_secret_key_is_refused(tmp_path):
    result = manage(tmp_path, "check", "--deploy", **{**PRODUCTION, "SECRET_KEY": ""})
    assert "config.E002" in result.stderr

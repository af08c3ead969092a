"""Reads the environment: the only place that does.

Each value comes from the environment, else from `<home>/embedded.env` (written by `manage.py up` for the
servers that it started), else from the default beside it. A value that can't be read ends the process with
one line that names the variable, and a HINT (exit 2).
"""

import re
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import environ

BASE_DIR = Path(__file__).resolve().parent.parent

TRUE, FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off", ""}

env = environ.Env()
HOME = Path(env.str("MISTERSMITH_HOME", default=str(BASE_DIR / ".mistersmith"))).resolve()
EMBEDDED_ENV = HOME / "embedded.env"
if EMBEDDED_ENV.is_file():
    environ.Env.read_env(EMBEDDED_ENV)  # never overrides what the environment already has


def read(kind: Callable[..., Any], name: str, default: Any, hint: str) -> Any:
    """Return variable `name` as `kind` reads it; exit 2 with `hint` when it can't be read."""
    try:
        return kind(name, default=default)
    except (ValueError, TypeError, environ.ImproperlyConfigured) as error:
        refuse(name, repr(env.str(name, default="")), str(error), hint)


def refuse(name: str, value: object, why: str, hint: str) -> NoReturn:
    """End the process: one line that names the variable, a HINT, exit code 2."""
    print(f"{name}={value}: {why}\nHINT: {hint}", file=sys.stderr)  # noqa: T201
    raise SystemExit(2)


def database(name: str, default: str) -> dict[str, Any]:
    """Return variable `name`, a PostgreSQL URL, as Django's DATABASES entry."""
    return parse_database(name, env.str(name, default=default) or default)


def parse_database(name: str, url: str) -> dict[str, Any]:
    """Return a PostgreSQL URL as Django's DATABASES entry. Errors name the variable, not the URL with its password."""
    hint = "use postgresql://user:password@host:port/database, or unset it to use the embedded server"
    try:
        entry: dict[str, Any] = env.db_url_config(url)
    except (ValueError, TypeError, environ.ImproperlyConfigured):
        entry = {}
    if entry.get("ENGINE") != "django.db.backends.postgresql" or not entry.get("NAME"):
        refuse(name, f"{url.partition(':')[0]}:...", "not the URL of a PostgreSQL database", hint)
    return entry


def databases(name: str, split: Callable[[str], list[str]] = lambda text: [text]) -> list[dict[str, Any]]:
    """Return the URLs of an optional variable as DATABASES entries; none where it is not set."""
    return [parse_database(name, url) for url in split(env.str(name, default="")) if url]


def pool_size(name: str, default: str, parse: Callable[[str], Any]) -> str:
    """Return variable `name`, "MAXIMUM/MINIMUM" connections."""
    value: str = env.str(name, default=default) or default
    try:
        parse(value)
    except ValueError as error:
        refuse(name, repr(value), str(error), "use two whole numbers, for instance 20/5")
    return value


def email(name: str, default: str) -> dict[str, Any]:
    """Return variable `name`, the URL of a mail server, as Django's EMAIL_... settings; empty means the default."""
    if not env.str(name, default=""):
        return dict(env.email_url_config(default))
    try:
        return dict(env.email_url(name))
    except (ValueError, environ.ImproperlyConfigured):
        scheme = env.str(name).partition(":")[0]  # not the rest: it may hold a password
        hint = "use smtp+tls://user:password@host:587, smtp://host:25 or consolemail://"
        refuse(name, f"{scheme}:...", "not the URL of a mail server", hint)


def s3_url(name: str) -> str:
    """Return variable `name`, s3://bucket or s3://bucket/prefix, as it is; empty where it is not set."""
    value: str = env.str(name, default="")
    if value and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.*'()/-]*)?", value, re.ASCII):
        hint = "use s3://bucket or s3://bucket/prefix; the server's address goes into AWS_ENDPOINT_URL"
        refuse(name, repr(value), "not a bucket of S3", hint)
    return value


def store_url(name: str) -> str:
    """Return variable `name`, s3://bucket/prefix or file:///path, as it is; empty where it is not set."""
    value: str = env.str(name, default="")
    if not value.startswith("file://"):
        return s3_url(name)
    path = value.removeprefix("file://")
    if not path.startswith("/") or ".." in path.split("/") or path.strip("/") == "":
        refuse(
            name, repr(value), "not the path of a folder", "use file:///path/to/folder, or s3://bucket/prefix"
        )
    return value


def pattern(name: str, expression: str, hint: str) -> str:
    """Return variable `name`, which must match the whole expression; empty where it is not set."""
    value: str = env.str(name, default="")
    if not re.fullmatch(expression, value):
        refuse(name, repr(value), "not one of its values", hint)
    return value


def boolean(name: str, default: bool) -> bool:
    value = env.str(name, default=str(default)).strip().lower()
    if value not in TRUE | FALSE:
        refuse(name, repr(value), "not a boolean", "use true or false")
    return value in TRUE


def integer(name: str, default: int, minimum: int, maximum: int) -> int:
    value: int = read(env.int, name, default, f"use a whole number from {minimum} to {maximum}")
    if not minimum <= value <= maximum:
        refuse(name, value, f"must be {minimum} to {maximum}", "change it or unset it")
    return value


def choice(name: str, default: str, allowed: Sequence[str]) -> str:
    value: str = env.str(name, default=default).strip().lower()
    if value not in allowed:
        refuse(name, repr(value), "there is no such", f"use {' or '.join(allowed)}")
    return value


def secret_key() -> str:
    """Return SECRET_KEY, or the one kept in `<home>/secret_key` (made at first use, readable by the owner)."""
    given: str = env.str("SECRET_KEY", default="")
    if given:
        return given
    path = HOME / "secret_key"
    try:
        if not path.is_file():
            make_secret_key(path)
        return path.read_text()
    except OSError as error:
        hint = "set MISTERSMITH_HOME to a directory that we may write, on a disk with room, or set SECRET_KEY"
        refuse("MISTERSMITH_HOME", HOME, f"{path}: {error.strerror}", hint)


def make_secret_key(path: Path) -> None:
    """Write a new key to `path`; two processes at once: the first one's key stays."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = path.with_name(f"secret_key.{secrets.token_hex(4)}")
    fresh.touch(mode=0o600)
    try:
        fresh.write_text(secrets.token_urlsafe(64))
        path.hardlink_to(fresh)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()

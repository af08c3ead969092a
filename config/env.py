"""Reads the environment: the only place that does.

Each value comes from the environment, else from `<home>/embedded.env` (written by `manage.py up` for the
servers that it started), else from the default beside it. A value that can't be read ends the process with
one line that names the variable, and a HINT (exit 2).
"""

import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import environ

BASE_DIR = Path(__file__).resolve().parent.parent

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
        print(f"{name}={env.str(name, default='')!r}: {error}\nHINT: {hint}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from error


def boolean(name: str, default: bool) -> bool:
    value = env.str(name, default=str(default)).strip().lower()
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("0", "false", "no", "off", ""):
        return False
    print(f"{name}={value!r}: not a boolean\nHINT: use true or false", file=sys.stderr)  # noqa: T201
    raise SystemExit(2)


def integer(name: str, default: int, minimum: int, maximum: int) -> int:
    value: int = read(env.int, name, default, f"use a whole number from {minimum} to {maximum}")
    if not minimum <= value <= maximum:
        print(  # noqa: T201
            f"{name}={value}: must be {minimum} to {maximum}\nHINT: change it or unset it", file=sys.stderr
        )
        raise SystemExit(2)
    return value


def secret_key() -> str:
    """Return SECRET_KEY, or the one kept in `<home>/secret_key` (made at first use, readable by the owner)."""
    given: str = env.str("SECRET_KEY", default="")
    if given:
        return given
    path = HOME / "secret_key"
    if not path.is_file():
        HOME.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh = path.with_name(f"secret_key.{secrets.token_hex(4)}")
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(64))
        try:
            path.hardlink_to(fresh)  # two processes at once: the first one's key stays
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text()

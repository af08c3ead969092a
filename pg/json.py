"""What may be stored as jsonb."""

import json
from typing import Any

ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def dump_json(value: Any) -> str:
    """Return `value` as JSON text that PostgreSQL takes as jsonb; raise ValueError saying why it cannot.

    Refused besides what JSON has no form for: NaN and infinities, the character U+0000, lone surrogates.
    """
    try:
        text = ENCODER.encode(value)
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"text is not valid Unicode: {error}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"JSON cannot hold it: {error}") from error
    if "\\u0000" in text and has_nul(value):
        raise ValueError("the character U+0000 cannot be stored in PostgreSQL")
    return text


def has_nul(value: Any) -> bool:
    """Tell whether a text in `value`, keys included, holds U+0000."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(has_nul(key) or has_nul(item) for key, item in value.items())
    return isinstance(value, list | tuple) and any(has_nul(item) for item in value)


def without_nul(text: str) -> str:
    """Return `text` as PostgreSQL can hold it: U+0000 and lone surrogates replaced."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()

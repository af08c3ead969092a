"""Payloads held against the JSON Schema that a type's handler declares.

jsonschema is imported where it is used: it costs a tenth of a second, which only those pay who declare schemas.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pg.errors import Refused
from pg.json import dump_json

SHOWN_LENGTH = 200


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise Refused for what is no JSON Schema (draft 2020-12, or the one that its $schema names)."""
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        raise Refused(f"payload_schema: {error.message}") from error


def find_fault(payload: Any, schema: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the payload, in words; None: it is right."""
    from jsonschema.exceptions import best_match

    fault = best_match(_validator(dump_json(schema)).iter_errors(payload))
    if fault is None:
        return None
    place = fault.json_path if fault.json_path != "$" else "payload"
    return f"{place}: {fault.message[:SHOWN_LENGTH]}"


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    """Imported here: jsonschema costs a tenth of a second, which only those pay who have schemas."""
    from jsonschema.validators import validator_for
    from jsonschema_specifications import REGISTRY

    parsed = json.loads(schema)
    return validator_for(parsed)(parsed, registry=REGISTRY)  # nothing is fetched from elsewhere

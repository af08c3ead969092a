"""A catalogue entry as JSON."""

import json
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from recovery.models import Backup

FIELDS = [field.attname for field in Backup._meta.concrete_fields]


def to_json(backup: Backup) -> dict[str, Any]:
    values = {name: getattr(backup, name) for name in FIELDS}
    plain: dict[str, Any] = json.loads(json.dumps(values, cls=MicrosecondEncoder))
    return plain


def from_json(values: dict[str, Any]) -> Backup:
    """Raises ValueError or ValidationError for what is no entry."""
    fields = {field.attname: field for field in Backup._meta.concrete_fields}
    return Backup(**{name: fields[name].to_python(value) for name, value in values.items() if name in fields})


class MicrosecondEncoder(DjangoJSONEncoder):
    """Django's cuts times to milliseconds; ours must equal the database's."""

    def default(self, value: Any) -> Any:
        return value.isoformat() if hasattr(value, "isoformat") else super().default(value)

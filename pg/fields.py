"""Model fields for PostgreSQL types that Django has no field for."""

from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper


class EnumField(models.CharField):
    """Text choices kept in the PostgreSQL enum `type_name`, which a migration makes first."""

    def __init__(self, *args: Any, type_name: str, **kwargs: Any) -> None:
        self.type_name = type_name
        kwargs.setdefault("max_length", 32)
        super().__init__(*args, **kwargs)

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        return self.type_name

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        return name, path, args, {**kwargs, "type_name": self.type_name}

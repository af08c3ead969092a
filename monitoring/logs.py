"""The ids that every line of log carries: of the request, the task, the attempt, the agent, and of the trace.

They belong to the flow of control, not to the line: whoever logs inside `log_ids(...)`, libraries included, is found by
them. `LOG_FORMAT=json` writes one JSON object a line, for machines; `line` is for people.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from pythonjsonlogger.json import JsonFormatter

from monitoring.tracing import trace_ids

NONE: Mapping[str, object] = MappingProxyType({})
_ids: ContextVar[Mapping[str, object]] = ContextVar("log_ids", default=NONE)


@contextmanager
def log_ids(**ids: object) -> Iterator[None]:
    """Give every line inside the block these ids beside those that it has already; a None is left out."""
    given = {name: value for name, value in ids.items() if value is not None}
    token = _ids.set({**_ids.get(), **given})  # text is made of them where a line is logged: few blocks log
    try:
        yield
    finally:
        _ids.reset(token)


def current_ids() -> Mapping[str, str]:
    """Return the ids that a line logged here would carry."""
    return {name: str(value) for name, value in _ids.get().items()}


class AddIds(logging.Filter):
    """Puts the ids on the record as `ids`; those that the caller gave with `extra` win."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.ids = {**trace_ids(), **current_ids()}
        return True


class LineFormatter(logging.Formatter):
    """One line for people: time, level, logger, message, then the ids in brackets."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        ids = " ".join(f"{name}={value}" for name, value in getattr(record, "ids", {}).items())
        return super().formatMessage(record) + (f" [{ids}]" if ids else "")


class JsonLines(JsonFormatter):
    """One JSON object a line: `time` (UTC, RFC 3339), `level`, `logger`, `message`, the ids, what `extra` gave, and
    `exc_info` with the traceback."""

    def __init__(self) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger", "timestamp": "time"},
            timestamp=True,
        )

    def add_fields(
        self, log_data: dict[str, object], record: logging.LogRecord, message_dict: dict[str, object]
    ) -> None:
        super().add_fields(log_data, record, message_dict)
        ids = log_data.pop("ids", {})
        if isinstance(ids, dict):
            log_data.update({name: value for name, value in ids.items() if name not in log_data})

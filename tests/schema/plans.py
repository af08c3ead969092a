"""The plans that PostgreSQL really ran: those inside functions, triggers and foreign keys too, by auto_explain."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import connection

from tests.schema.catalog import rows

SETTINGS = {
    "log_level": "notice",
    "log_format": "json",
    "log_nested_statements": "on",
    "log_analyze": "on",
    "log_timing": "off",
    "log_min_duration": "0",
}


@dataclass(frozen=True)
class Plan:
    """One statement's plan. `tree` is what EXPLAIN (ANALYZE, FORMAT JSON) prints."""

    query: str
    tree: dict[str, Any]

    @property
    def nodes(self) -> list[dict[str, Any]]:
        return list(walk(self.tree))

    def relations(self) -> set[str]:
        """Return the tables (of partitioned ones the leaves) that were read at least once."""
        return {
            node["Relation Name"] for node in self.nodes if "Relation Name" in node and node["Actual Loops"]
        }

    def indexes(self) -> set[str]:
        return {node["Index Name"] for node in self.nodes if "Index Name" in node}


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", []):
        yield from walk(child)


@contextmanager
def watched_plans() -> Iterator[list[Plan]]:
    """Collect the plan of every statement that ends while the block runs."""
    found: list[Plan] = []

    def take(diagnostic: Any) -> None:
        head, _, body = (diagnostic.message_primary or "").partition("plan:\n")
        if head.startswith("duration:") and body:
            report = json.loads(body)
            found.append(Plan(report["Query Text"], report["Plan"]))

    connection.ensure_connection()
    connection.connection.add_notice_handler(take)
    with connection.cursor() as cursor:
        cursor.execute("LOAD 'auto_explain'")
        for name, value in SETTINGS.items():
            cursor.execute(f"SET auto_explain.{name} = {value}")
    try:
        yield found
    finally:
        connection.connection.remove_notice_handler(take)
        with connection.cursor() as cursor:
            cursor.execute("SET auto_explain.log_min_duration = -1")


def roots_of_indexes() -> dict[str, str]:
    """Return the declared name of each index: a leaf's own, and the partitioned index it belongs to."""
    found = rows(
        """
        SELECT c.relname, r.relname FROM pg_class c
        JOIN pg_class r ON r.oid = COALESCE(pg_partition_root(c.oid), c.oid)
        WHERE c.relkind IN ('i', 'I')
        """
    )
    return dict(found)

"""manage.py indexes: usage, suggest."""

from typing import Any

from django.db import connection

from monitoring.models import Index
from operators.command import Answer, OperatorCommand

DOUBTFUL = ("Invalid", "Redundant", "Consider dropping")


class Command(OperatorCommand):
    help = "Which indexes work, which do not, which are missing. Changes nothing."

    def add_verbs(self) -> None:
        parser = self.add_verb("usage", usage, "each index as declared: scans, size, what to make of it")
        parser.add_argument(
            "--doubtful", action="store_true", help="only those that are invalid, redundant or unused"
        )
        parser.add_argument("--schema")
        parser = self.add_verb(
            "suggest", suggest, "indexes that statements ask for, with evidence and the SQL"
        )
        parser.add_argument(
            "--min-rows", type=int, default=10_000, help="of the table; smaller ones are read whole"
        )


def usage(doubtful: bool, schema: str | None, **_: Any) -> Answer:
    """A unique index, or one that serves a foreign key, is never called doubtful for being unused."""
    indexes = Index.objects.order_by("schema_name", "table_name", "index_name")
    if schema:
        indexes = indexes.filter(schema_name=schema)
    shown = [one for one in indexes if not doubtful or one.recommendation.startswith(DOUBTFUL)]
    items = [
        {"table": f"{one.schema_name}.{one.table_name}", "index": one.index_name, "size": one.index_size,
         "scans": one.index_scans, "recommendation": one.recommendation}
        for one in shown
    ]  # fmt: skip
    return Answer(items=items, counts={"indexes": len(items)})


def suggest(min_rows: int, **_: Any) -> Answer:
    notices: list[str] = []
    connection.ensure_connection()
    driver = connection.connection
    driver.add_notice_handler(take := lambda notice: notices.append(notice.message_primary or ""))
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM monitoring.suggest_missing_indexes(%s)", [min_rows])
            rows = cursor.fetchall()
    finally:
        driver.remove_notice_handler(take)
    items = [{"sql": sql, "benefit": benefit, "reason": reason} for sql, reason, benefit in rows]
    return Answer(items=items, counts={"suggestions": len(items)}, warnings=notices)

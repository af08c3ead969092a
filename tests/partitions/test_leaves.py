"""A partition that upkeep makes is what its table is: everything that LIKE and ATTACH bring, and what they do not."""

import pytest

from partitions.maintenance import apply_all, plan_all
from partitions.models import Policy
from tests.partitions.conftest import make_partition, midnight, sql

RICH = """
CREATE SCHEMA app;
CREATE TABLE app.sources (source_id int PRIMARY KEY);
CREATE TABLE app.rich (
  event_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  number bigint GENERATED ALWAYS AS IDENTITY,
  source_id int NOT NULL REFERENCES app.sources ON DELETE CASCADE,
  payload jsonb NOT NULL DEFAULT '{}',
  word varchar(20) COLLATE "C",
  twice int GENERATED ALWAYS AS (source_id * 2) STORED,
  CONSTRAINT word_is_there CHECK (word <> '')
) PARTITION BY RANGE (event_id);
CREATE TABLE app.marks (event_id uuid REFERENCES app.rich);
CREATE INDEX rich_partial ON app.rich (source_id) WHERE word IS NOT NULL;
CREATE INDEX rich_expression ON app.rich (lower(word)) INCLUDE (source_id);
CREATE INDEX rich_gin ON app.rich USING gin (payload jsonb_path_ops);
CREATE STATISTICS app.rich_stats (dependencies) ON source_id, word FROM app.rich;
ALTER TABLE app.rich ALTER COLUMN word SET STATISTICS 500, ALTER COLUMN payload SET STORAGE EXTERNAL;
ALTER TABLE app.rich REPLICA IDENTITY FULL;
COMMENT ON COLUMN app.rich.word IS 'what was said';
GRANT SELECT, INSERT ON app.rich TO pg_monitor;
CREATE FUNCTION app.shout() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.word := upper(NEW.word); RETURN NEW; END';
CREATE TRIGGER shout BEFORE INSERT ON app.rich FOR EACH ROW EXECUTE FUNCTION app.shout();
"""
ASPECTS = {
    "columns": """
        SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated, a.attidentity,
               a.attstorage, a.attcompression, a.attcollation, COALESCE(a.attstattarget, -1),
               pg_get_expr(d.adbin, d.adrelid),
               col_description(a.attrelid, a.attnum)
        FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = %s::regclass AND a.attnum > 0 ORDER BY a.attnum""",
    "constraints": """
        SELECT contype, pg_get_constraintdef(oid), convalidated FROM pg_constraint
        WHERE conrelid = %s::regclass ORDER BY 1, 2""",
    "indexes": """
        SELECT regexp_replace(pg_get_indexdef(indexrelid), '^.* USING ', ''), indisunique, indisprimary, indisvalid
        FROM pg_index WHERE indrelid = %s::regclass ORDER BY 1""",
    "row triggers": """
        SELECT tgname, tgenabled, tgfoid FROM pg_trigger
        WHERE tgrelid = %s::regclass AND NOT tgisinternal ORDER BY 1""",
    "statistics": "SELECT stxkind::text, stxkeys::text FROM pg_statistic_ext WHERE stxrelid = %s::regclass",
    "owner and identity": "SELECT relowner, relreplident, relpersistence FROM pg_class WHERE oid = %s::regclass",
    "readers": "SELECT has_table_privilege('pg_monitor', %s, 'SELECT')",
}


@pytest.fixture
def rich(transactional_db) -> str:
    """A table with everything, and a partition whose storage parameters somebody has set."""
    sql(RICH)
    oldest = make_partition(-1, table="app.rich")
    sql(f"ALTER TABLE {oldest} SET (fillfactor = 80, autovacuum_vacuum_insert_threshold = 5000)")
    return make_partition(0, table="app.rich")


@pytest.mark.parametrize("aspect", ASPECTS)
def test_a_partition_is_like_its_table(rich, aspect):
    of_table, of_leaf = sql(ASPECTS[aspect], "app.rich"), sql(ASPECTS[aspect], rich)
    assert of_table
    if sql("SELECT current_setting('server_version_num')::int < 170000") == [(True,)] and aspect == "columns":
        of_table = [(*row[:4], "", *row[5:]) for row in of_table]  # identity came to partitions with 17
    assert of_leaf == of_table


def test_storage_parameters_are_those_of_the_newest_partition(rich):
    assert sql("SELECT reloptions FROM pg_class WHERE oid = %s::regclass", rich) == [
        (["fillfactor=80", "autovacuum_vacuum_insert_threshold=5000"],)
    ]


def test_nobody_may_write_past_the_table_or_read_past_its_row_security(rich):
    assert sql("SELECT has_table_privilege('pg_monitor', %s, 'INSERT')", rich) == [(False,)]
    sql("ALTER TABLE app.rich ENABLE ROW LEVEL SECURITY")
    guarded = make_partition(1, table="app.rich")
    assert sql("SELECT has_table_privilege('pg_monitor', %s, 'SELECT')", guarded) == [(False,)]


def test_rows_go_through_the_table_as_ever(rich):
    sql("INSERT INTO app.sources VALUES (1)")
    sql("INSERT INTO app.rich (source_id, word) SELECT 1, 'hey' FROM generate_series(1, 3)")
    assert sql(f"SELECT number, word, twice FROM {rich} ORDER BY 1") == [(n, "HEY", 2) for n in (1, 2, 3)]
    sql("INSERT INTO app.marks SELECT event_id FROM app.rich LIMIT 1")
    sql("DELETE FROM app.marks; DELETE FROM app.sources")
    assert sql("SELECT count(*) FROM app.rich") == [(0,)], "the cascade comes here too"


# -- keys and intervals -------------------------------------------------------------------------------------
KEYS = {
    "uuid": "partitions.uuid7_at(%s)",
    "timestamptz": "%s",
    "timestamp": "%s::timestamptz AT TIME ZONE 'UTC'",
    "date": "(%s::timestamptz AT TIME ZONE 'UTC')::date",
}


ALWAYS = {("uuid", "hour"), ("timestamptz", "week"), ("timestamp", "day"), ("date", "month")}
PAIRS = [
    (key, length) for key in KEYS for length in Policy.Interval.values if (key, length) != ("date", "hour")
]


@pytest.mark.parametrize(
    ("key_type", "interval"),
    [pair if pair in ALWAYS else pytest.param(*pair, marks=pytest.mark.deep) for pair in PAIRS],
)
def test_each_key_and_interval(transactional_db, key_type, interval):
    """Rows wait in DEFAULT; one apply makes all partitions, moves the rows, and nothing is left to do."""
    make_keyed(key_type, interval)
    for offset in (-3, 0, 40):
        sql(f"INSERT INTO app.keyed (key, note) VALUES ({KEYS[key_type]}, %s)", midnight(offset), str(offset))
    assert [one.error for one in apply_all(tables=["app.keyed"]) if one.error] == []
    assert plan_all(tables=["app.keyed"]) == []
    assert sql("SELECT count(*) FROM ONLY app.keyed_default") == [(0,)]
    assert sorted(row[0] for row in sql("SELECT note FROM app.keyed")) == ["-3", "0", "40"]


def make_keyed(key_type: str, interval: str) -> None:
    sql(
        f"CREATE SCHEMA app; CREATE TABLE app.keyed (key {key_type} NOT NULL, note text) PARTITION BY RANGE (key)"
    )
    sql("CREATE TABLE app.keyed_default PARTITION OF app.keyed DEFAULT")
    Policy.objects.create(
        table_name="app.keyed",
        partition_interval=interval,
        make_ahead_days=1,
        keep_days=None,
        on_expiry="keep",
    )


def test_hours_of_a_date_are_refused_with_a_hint(transactional_db):
    make_keyed("date", "hour")
    errors = [one.error for one in apply_all(tables=["app.keyed"]) if one.error]
    assert errors
    assert all("is within a day" in error for error in errors)

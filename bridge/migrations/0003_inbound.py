import django.db.models.functions.datetime
from django.db import migrations, models

from pg.locks import LockTables
from pg.operations import CreateTable, RunSQLFile

STRATEGIES = [
    ("last_write_wins", "Last write wins"),
    ("timestamp", "The later one by its time"),
    ("reject", "The agent's write stays"),
]
SETTLED = [*STRATEGIES, ("fenced", "The agent's epoch was over")]


class Migration(migrations.Migration):
    dependencies = [("bridge", "0002_task_capture"), ("agent_sessions", "0001_initial")]
    operations = [
        LockTables(
            {
                "agents.state": "SHARE ROW EXCLUSIVE",
                "sessions.active": "ACCESS EXCLUSIVE",
                "bridge.outbox": "ACCESS EXCLUSIVE",
                "bridge.quarantine": "ACCESS EXCLUSIVE",
                "bridge.conflict": "ACCESS EXCLUSIVE",
            }
        ),
        CreateTable(
            name="Source",
            sql="bridge/0003_sources",
            fields=[
                ("bucket", models.TextField(primary_key=True, serialize=False)),
                ("kv_epoch", models.BigIntegerField(db_default=0)),
                ("flushed_sequence", models.BigIntegerField(db_default=0)),
                ("updated_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={"db_table": '"bridge"."sources"'},
        ),
        RunSQLFile("bridge", "0003_tombstones"),
        CreateTable(
            name="Process",
            sql="bridge/0003_processes",
            fields=[
                ("process_id", models.UUIDField(primary_key=True, serialize=False)),
                ("host", models.TextField()),
                ("pid", models.IntegerField()),
                ("started_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("seen_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("figures", models.JSONField(default=dict)),
            ],
            options={"verbose_name_plural": "processes", "db_table": '"bridge"."processes"'},
        ),
        CreateTable(
            name="DeadLetter",
            sql="bridge/0003_dead_letters",
            fields=[
                ("dead_letter_id", models.BigAutoField(primary_key=True, serialize=False)),
                ("consumer", models.TextField()),
                ("stream", models.TextField()),
                ("stream_epoch", models.BigIntegerField()),
                ("stream_sequence", models.BigIntegerField()),
                ("subject", models.TextField()),
                ("headers", models.JSONField(default=dict)),
                ("payload", models.BinaryField()),
                ("stored_at", models.DateTimeField()),
                ("error", models.TextField()),
                ("attempts", models.IntegerField(db_default=1)),
                (
                    "first_failed_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
                ),
                ("last_failed_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={"verbose_name": "dead letter", "db_table": '"bridge"."dead_letters"'},
        ),
        CreateTable(
            name="ConflictRule",
            sql="bridge/0003_conflict_rules",
            fields=[
                ("conflict_rule_id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "bucket",
                    models.TextField(
                        choices=[("AGENT_STATE", "AGENT_STATE"), ("SESSION_DATA", "SESSION_DATA")]
                    ),
                ),
                (
                    "key_prefix",
                    models.TextField(
                        blank=True,
                        db_default="",
                        default="",
                        help_text="Beginning of the key, or in AGENT_STATE of the state key in it. Empty: the whole bucket."
                        " The longest that fits counts.",
                    ),
                ),
                ("strategy", models.TextField(choices=STRATEGIES)),
            ],
            options={
                "verbose_name": "conflict rule",
                "db_table": '"bridge"."conflict_rules"',
                "constraints": [
                    models.UniqueConstraint(fields=("bucket", "key_prefix"), name="one_rule_per_prefix")
                ],
            },
        ),
        migrations.SeparateDatabaseAndState(
            [RunSQLFile("bridge", "0003_conflicts")],
            [
                migrations.AddField(
                    "OutboxRow", "strategy", models.TextField(choices=STRATEGIES, null=True)
                ),
                migrations.AddField("QuarantinedRow", "strategy", models.TextField(null=True)),
                migrations.AddField(
                    "Conflict",
                    "winner",
                    models.TextField(
                        choices=[("postgresql", "PostgreSQL"), ("agent", "The agent")], db_default="postgresql"
                    ),
                ),
                migrations.AlterField(
                    "Conflict",
                    "strategy",
                    models.TextField(choices=SETTLED, db_default="last_write_wins"),
                ),
            ],
        ),
        RunSQLFile("bridge", "0003_shared"),
    ]

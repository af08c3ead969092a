import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

from pg.locks import LockTables
from pg.operations import CreateTable, RunSQLFile

PHASES = [
    ("cold", "Cold"),
    ("hydrating", "Hydrating"),
    ("active", "Active"),
    ("flushing", "Flushing"),
    ("expired", "Expired"),
]


class Migration(migrations.Migration):
    dependencies = [("bridge", "0003_inbound"), ("agents", "0001_initial")]
    operations = [
        LockTables(
            {
                "agents.registry": "SHARE ROW EXCLUSIVE",
                "agents.state": "SHARE ROW EXCLUSIVE",
                "bridge.outbox": "ACCESS EXCLUSIVE",
                "bridge.quarantine": "ACCESS EXCLUSIVE",
            }
        ),
        migrations.SeparateDatabaseAndState(
            [RunSQLFile("bridge", "0004_expiry")],
            [
                migrations.AddField("OutboxRow", "expires_at", models.DateTimeField(null=True)),
                migrations.AddField("QuarantinedRow", "expires_at", models.DateTimeField(null=True)),
            ],
        ),
        RunSQLFile("bridge", "0004_epochs"),
        CreateTable(
            name="Hydration",
            sql="bridge/0004_hydration",
            fields=[
                (
                    "agent",
                    models.OneToOneField(
                        db_column="agent_id",
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to="agents.agent",
                    ),
                ),
                ("phase", models.CharField(choices=PHASES, db_default="cold", default="cold", max_length=10)),
                ("keys", models.IntegerField(db_default=0, default=0)),
                ("stored", models.IntegerField(db_default=0, default=0)),
                ("error", models.TextField(blank=True, db_default="", default="")),
                ("moved_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("hydrated_at", models.DateTimeField(null=True)),
            ],
            options={"verbose_name_plural": "hydration", "db_table": '"bridge"."hydration"'},
        ),
    ]

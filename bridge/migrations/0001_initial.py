import django.db.models.functions.datetime
from django.db import migrations, models

import bridge.models
from pg.operations import CreateSchema, CreateTable, RunSQLFile

OPS = [("U", "Update"), ("D", "Delete"), ("E", "Event")]


class Migration(migrations.Migration):
    initial = True
    dependencies = [("agents", "0001_initial"), ("tasks", "0001_initial"), ("messaging", "0001_initial")]
    operations = [
        CreateSchema("bridge"),
        CreateTable(
            name="OutboxRow",
            sql="bridge/0001_outbox",
            fields=[
                ("outbox_id", models.BigAutoField(primary_key=True, serialize=False)),
                ("target", models.TextField(help_text="the KV bucket, or for an event the stream")),
                ("key", models.TextField(help_text="the key in the bucket, or for an event the whole subject")),
                ("op", bridge.models.OneByteField(choices=OPS, max_length=1)),
                ("base_revision", models.BigIntegerField(null=True)),
                ("payload", models.JSONField(null=True)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={"verbose_name": "outbox row", "db_table": '"bridge"."outbox"'},
        ),
        CreateTable(
            name="QuarantinedRow",
            sql="bridge/0001_quarantine",
            fields=[
                ("outbox_id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("target", models.TextField()),
                ("key", models.TextField()),
                ("op", bridge.models.OneByteField(choices=OPS, max_length=1)),
                ("base_revision", models.BigIntegerField(null=True)),
                ("payload", models.JSONField(null=True)),
                ("created_at", models.DateTimeField()),
                ("error", models.TextField()),
                ("attempts", models.IntegerField()),
                ("quarantined_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={"verbose_name": "quarantined row", "db_table": '"bridge"."quarantine"'},
        ),
        CreateTable(
            name="Conflict",
            sql="bridge/0001_conflict",
            fields=[
                ("conflict_id", models.BigAutoField(primary_key=True, serialize=False)),
                ("outbox_id", models.BigIntegerField(null=True)),
                ("target", models.TextField()),
                ("key", models.TextField()),
                ("strategy", models.TextField(db_default="last_write_wins")),
                ("base_revision", models.BigIntegerField()),
                ("kv_revision", models.BigIntegerField()),
                ("kv_value", models.TextField(null=True)),
                ("pg_value", models.JSONField(null=True)),
                ("noticed_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={"db_table": '"bridge"."conflict"'},
        ),
        RunSQLFile("bridge", "0001_capture"),
        RunSQLFile("bridge", "0001_agents"),
        RunSQLFile("bridge", "0001_tasks"),
        RunSQLFile("bridge", "0001_messages"),
    ]

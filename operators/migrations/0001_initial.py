import django.contrib.postgres.fields
import django.db.models.functions.datetime
from django.db import migrations, models

from pg.operations import CreateSchema, CreateTable

VIA = [("admin", "Admin"), ("command", "Command"), ("job", "Job"), ("api", "Api")]
STATUS = [
    ("queued", "Queued"),
    ("running", "Running"),
    ("finished", "Finished"),
    ("failed", "Failed"),
    ("cancelled", "Cancelled"),
]


class Migration(migrations.Migration):
    initial = True
    dependencies: list[tuple[str, str]] = []
    operations = [
        CreateSchema("operators"),
        CreateTable(
            name="AuditEntry",
            sql="operators/0001_audit",
            fields=[
                ("entry_id", models.BigAutoField(primary_key=True, serialize=False)),
                ("recorded_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ("actor", models.TextField()),
                ("via", models.TextField(choices=VIA)),
                ("address", models.GenericIPAddressField(null=True)),
                ("action", models.TextField()),
                ("objects_touched", django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), db_column="objects", default=list, size=None)),
                ("object_count", models.BigIntegerField(default=1)),
                ("reason", models.TextField(default="")),
                ("details", models.JSONField(default=dict)),
                ("seal_number", models.BigIntegerField(editable=False, null=True, unique=True)),
                ("seal", models.BinaryField(null=True)),
            ],
            options={
                "verbose_name": "audit entry",
                "verbose_name_plural": "audit entries",
                "db_table": '"operators"."audit"',
            },
        ),
        CreateTable(
            name="BulkJob",
            sql="operators/0001_bulk_jobs",
            fields=[
                ("job_id", models.BigAutoField(primary_key=True, serialize=False)),
                ("action", models.TextField()),
                ("parameters", models.JSONField(default=dict)),
                ("reason", models.TextField(default="")),
                ("requested_by", models.TextField()),
                ("via", models.TextField(choices=VIA)),
                ("status", models.TextField(choices=STATUS, default="queued")),
                ("expected", models.BigIntegerField(default=0, help_text="how many rows matched when it was requested")),
                ("done", models.BigIntegerField(default=0)),
                ("failed", models.BigIntegerField(default=0)),
                ("position", models.JSONField(help_text="where the next batch begins", null=True)),
                ("error", models.TextField(null=True)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ("started_at", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "bulk job",
                "db_table": '"operators"."bulk_jobs"',
            },
        ),
    ]

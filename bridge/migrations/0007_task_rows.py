from django.db import migrations, models

from pg.locks import LockTables
from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("bridge", "0006_state_capture")]
    operations = [
        LockTables({"bridge.outbox": "ACCESS EXCLUSIVE"}),
        migrations.SeparateDatabaseAndState(
            database_operations=[RunSQLFile("bridge", "0007_task_rows")],
            state_operations=[
                migrations.AddField(
                    "OutboxRow",
                    "event",
                    models.TextField(
                        null=True, help_text="the subject on TASK_EXECUTION under which the payload is an event too"
                    ),
                ),
            ],
        ),
    ]

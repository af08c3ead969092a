from django.db import migrations, models

import pg.uuid7
from pg.operations import CreateTable


class Migration(migrations.Migration):
    dependencies = [('monitoring', '0003_server'), ('partitions', '0003_grants')]  # its first partitions
    operations = [
        CreateTable(
            name='Snapshot',
            sql='monitoring/0004_snapshots',
            fields=[
                ('snapshot_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('kind', models.TextField(choices=[('load', 'Load'), ('growth', 'Growth')])),
                ('data', models.JSONField()),
            ],
            options={'db_table': '"monitoring"."snapshots"'},
        ),
    ]

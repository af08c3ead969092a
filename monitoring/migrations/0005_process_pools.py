import django.db.models.functions.datetime
from django.db import migrations, models

import pg.uuid7
from pg.operations import CreateTable


class Migration(migrations.Migration):
    dependencies = [('monitoring', '0004_snapshots')]
    operations = [
        CreateTable(
            name='ProcessPool',
            sql='monitoring/0005_process_pools',
            fields=[
                ('pool_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('process', models.TextField(help_text='web, worker, upkeep, beat, bridge')),
                ('host', models.TextField()),
                ('pid', models.IntegerField()),
                ('pool', models.TextField(help_text='its alias in DATABASES')),
                ('maximum', models.IntegerField(null=True)),
                ('connections', models.IntegerField()),
                ('idle', models.IntegerField()),
                ('waiting', models.IntegerField()),
                ('requests', models.BigIntegerField()),
                ('waited_seconds', models.FloatField()),
                ('refused', models.BigIntegerField()),
                ('lost', models.BigIntegerField()),
                ('started_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('seen_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
            ],
            options={
                'verbose_name': 'pool of a process',
                'verbose_name_plural': 'pools of processes',
                'db_table': '"monitoring"."process_pools"',
            },
        ),
    ]

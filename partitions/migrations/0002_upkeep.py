import django.contrib.postgres.fields
import django.core.validators
import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import pg.uuid7
from pg.operations import CreateTable, RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('partitions', '0001_initial')]
    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[RunSQLFile('partitions', '0002_policies')],
            state_operations=[
                migrations.AddField(
                    model_name='policy',
                    name='is_overridden',
                    field=models.BooleanField(db_default=False, default=False, editable=False),
                ),
                migrations.AddField(
                    model_name='policy',
                    name='partition_interval',
                    field=models.CharField(choices=[('hour', 'Hour'), ('day', 'Day'), ('week', 'Week'), ('month', 'Month')], db_default='day', default='day', help_text='Length of new partitions, aligned in UTC. Those that exist stay as they are.', max_length=5),
                ),
                migrations.AlterField(
                    model_name='policy',
                    name='keep_days',
                    field=models.IntegerField(blank=True, db_default=30, default=30, help_text='A partition is kept for so many days after its last moment. Empty: for ever.', null=True, validators=[django.core.validators.MinValueValidator(1)]),
                ),
                migrations.AlterField(
                    model_name='policy',
                    name='make_ahead_days',
                    field=models.IntegerField(db_default=14, default=14, help_text='Partitions are made for so many days from now. Below 3 days of cover is an alarm.', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(400)]),
                ),
                migrations.AlterField(
                    model_name='policy',
                    name='on_expiry',
                    field=models.CharField(choices=[('archive', 'Archive'), ('drop', 'Drop'), ('keep', 'Keep')], db_default='archive', default='archive', help_text='Archive: drop what is archived and verified. Drop: without an archive. Keep: never drop.', max_length=10),
                ),
            ],
        ),
        CreateTable(
            name='Run',
            sql='partitions/0002_runs',
            fields=[
                ('run_id', models.UUIDField(default=pg.uuid7.uuid7, primary_key=True, serialize=False)),
                ('status', models.CharField(choices=[('requested', 'Requested'), ('running', 'Running'), ('done', 'Done'), ('failed', 'Failed'), ('interrupted', 'Interrupted')], db_default='running', default='running', max_length=12)),
                ('origin', models.CharField(choices=[('beat', 'Beat'), ('command', 'Command'), ('admin', 'Admin')], max_length=10)),
                ('actor', models.CharField(db_default='', default='', max_length=150)),
                ('reason', models.TextField(db_default='', default='')),
                ('started_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('finished_at', models.DateTimeField(null=True)),
                ('steps', models.JSONField(db_default=models.Value([], models.JSONField()), default=list)),
                ('lock_wait_ms', models.IntegerField(db_default=0, default=0)),
                ('error', models.TextField(null=True)),
            ],
            options={
                'db_table': '"partitions"."runs"',
                'ordering': ['-run_id'],
                'permissions': [('apply_plan', 'Can apply a partition plan')],
            },
        ),
        CreateTable(
            name='Archive',
            sql='partitions/0002_archives',
            fields=[
                ('archive_id', models.UUIDField(default=pg.uuid7.uuid7, primary_key=True, serialize=False)),
                ('table_name', models.CharField(max_length=127)),
                ('partition_name', models.CharField(max_length=127)),
                ('partition_oid', models.BigIntegerField()),
                ('lower_time', models.DateTimeField()),
                ('upper_time', models.DateTimeField()),
                ('state', models.CharField(choices=[('writing', 'Writing'), ('verified', 'Verified'), ('stale', 'Stale'), ('damaged', 'Damaged')], db_default='writing', default='writing', max_length=8)),
                ('location', models.TextField()),
                ('columns', django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), size=None)),
                ('row_count', models.BigIntegerField(null=True)),
                ('checksum', models.TextField(null=True)),
                ('sha256', models.CharField(max_length=64, null=True)),
                ('size_bytes', models.BigIntegerField(null=True)),
                ('table_bytes', models.BigIntegerField()),
                ('uploaded_to', models.TextField(null=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('verified_at', models.DateTimeField(null=True)),
                ('dropped_at', models.DateTimeField(null=True)),
                ('error', models.TextField(null=True)),
            ],
            options={
                'db_table': '"partitions"."archives"',
                'ordering': ['-lower_time', 'table_name', '-archive_id'],
                'permissions': [('attach_archive', 'Can attach an archived partition and let it go')],
            },
        ),
        CreateTable(
            name='Mark',
            sql='partitions/0002_marks',
            fields=[
                ('partition_oid', models.BigIntegerField(primary_key=True, serialize=False)),
                ('partition_name', models.CharField(max_length=127)),
                ('table_name', models.CharField(max_length=127)),
                ('lower_time', models.DateTimeField()),
                ('upper_time', models.DateTimeField()),
                ('kind', models.CharField(choices=[('expiring', 'Expiring'), ('kept', 'Kept'), ('loading', 'Loading'), ('brought back', 'Brought Back'), ('releasing', 'Releasing')], max_length=12)),
                ('marked_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('archive', models.OneToOneField(null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='mark', to='partitions.archive')),
            ],
            options={
                'db_table': '"partitions"."marks"',
                'ordering': ['table_name', 'lower_time'],
            },
        ),
        RunSQLFile('partitions', '0002_functions'),
    ]

import django.contrib.postgres.fields
import django.db.models.expressions
import django.db.models.functions.datetime
import django.utils.timezone
import pg.uuid7
from django.db import migrations, models

from pg.operations import CreateSchema, CreateTable, RunSQLFile


class Migration(migrations.Migration):
    initial = True
    dependencies = [('partitions', '0001_initial')]
    operations = [
        CreateSchema('recovery'),
        CreateTable(
            name='TestResult',
            sql='recovery/0001_test_results',
            fields=[
                ('test_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('test_type', models.CharField(choices=[('full_restore', 'Full Restore'), ('pitr', 'PITR'), ('partial_restore', 'Partial Restore'), ('cross_system', 'Cross System')], max_length=50)),
                ('backup_timestamp', models.DateTimeField()),
                ('recovery_target', models.DateTimeField(null=True)),
                ('test_started_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('test_completed_at', models.DateTimeField(null=True)),
                ('test_status', models.CharField(choices=[('running', 'Running'), ('passed', 'Passed'), ('failed', 'Failed'), ('cancelled', 'Cancelled')], db_default='running', default='running', max_length=20)),
                ('data_verification_passed', models.BooleanField(null=True)),
                ('performance_metrics', models.JSONField(db_default=django.db.models.expressions.RawSQL("'{}'::jsonb", []), default=dict)),
                ('error_messages', django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), null=True, size=None)),
                ('notes', models.TextField(null=True)),
            ],
            options={
                'verbose_name': 'restore drill',
                'db_table': '"recovery"."test_results"',
                'ordering': ['-test_id'],
            },
        ),
        CreateTable(
            name='Backup',
            sql='recovery/0001_backups',
            fields=[
                ('backup_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('kind', models.CharField(choices=[('logical', 'Logical'), ('base', 'Base'), ('incremental', 'Incremental'), ('cross_system', 'Cross System')], db_default='logical', default='logical', max_length=20)),
                ('status', models.CharField(choices=[('running', 'Running'), ('complete', 'Complete'), ('verified', 'Verified'), ('damaged', 'Damaged'), ('failed', 'Failed')], db_default='running', default='running', max_length=20)),
                ('location', models.TextField()),
                ('database_name', models.TextField()),
                ('server_version', models.TextField()),
                ('tool_version', models.TextField()),
                ('started_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), default=django.utils.timezone.now)),
                ('completed_at', models.DateTimeField(null=True)),
                ('verified_at', models.DateTimeField(null=True)),
                ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), default=django.utils.timezone.now)),
                ('database_bytes', models.BigIntegerField()),
                ('size_bytes', models.BigIntegerField(null=True)),
                ('manifest_sha256', models.TextField(null=True)),
                ('row_counts', models.JSONField(db_default=django.db.models.expressions.RawSQL("'{}'::jsonb", []), default=dict)),
                ('is_pinned', models.BooleanField(db_default=False, default=False)),
                ('error', models.TextField(null=True)),
            ],
            options={
                'db_table': '"recovery"."backups"',
                'ordering': ['-backup_id'],
                'permissions': [('verify_backup', 'Can verify backups by restoring them')],
            },
        ),
        RunSQLFile('recovery', '0001_functions'),
    ]

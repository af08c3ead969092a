import datetime
import django.db.models.deletion
import django.db.models.functions.datetime
import pg.fields
import pg.uuid7
from django.db import migrations, models

from partitions.operations import CreatePartitionedTable
from pg.operations import CreateSchema, CreateTable, RunSQLFile


class Migration(migrations.Migration):
    initial = True
    dependencies = [('agents', '0001_initial')]
    operations = [
        CreateSchema('tasks'),
        CreateTable(
            name='Pause',
            sql='tasks/0001_pauses',
            fields=[
                ('task_type', models.CharField(max_length=100, primary_key=True, serialize=False)),
                ('reason', models.TextField(blank=True, default='')),
                ('paused_by', models.CharField(blank=True, default='', max_length=150)),
                ('paused_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
            ],
            options={
                'db_table': '"tasks"."pauses"',
            },
        ),
        CreateTable(
            name='TaskIdentity',
            sql='tasks/0001_identity',
            fields=[
                ('task_id', models.UUIDField(primary_key=True, serialize=False)),
                ('task_type', models.CharField(max_length=100)),
            ],
            options={
                'verbose_name_plural': 'task identities',
                'db_table': '"tasks"."identity"',
            },
        ),
        CreateTable(
            name='TaskType',
            sql='tasks/0001_types',
            fields=[
                ('task_type', models.CharField(max_length=100, primary_key=True, serialize=False)),
                ('partition_name', models.CharField(max_length=127)),
                ('options', models.JSONField(default=dict)),
                ('registered_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
            ],
            options={
                'db_table': '"tasks"."types"',
            },
        ),
        CreatePartitionedTable(
            name='Task',
            sql='tasks/0001_queue',
            strategy='list',
            key='task_type',
            fields=[
                ('task_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('task_type', models.CharField(max_length=100)),
                ('task_name', models.CharField(blank=True, max_length=255, null=True)),
                ('payload', models.JSONField(blank=True, default=dict)),
                ('configuration', models.JSONField(blank=True, default=dict)),
                ('metadata', models.JSONField(blank=True, default=dict)),
                ('status', pg.fields.EnumField(choices=[('pending', 'Pending'), ('queued', 'Queued'), ('running', 'Running'), ('paused', 'Paused'), ('completed', 'Completed'), ('failed', 'Failed'), ('cancelled', 'Cancelled')], default='pending', editable=False, max_length=32, type_name='task_status_type')),
                ('status_reason', models.TextField(blank=True, editable=False, null=True)),
                ('priority', pg.fields.EnumField(choices=[('low', 'Low'), ('normal', 'Normal'), ('high', 'High'), ('urgent', 'Urgent'), ('critical', 'Critical')], default='normal', max_length=32, type_name='task_priority_type')),
                ('scheduled_at', models.DateTimeField(blank=True, null=True)),
                ('started_at', models.DateTimeField(editable=False, null=True)),
                ('completed_at', models.DateTimeField(editable=False, null=True)),
                ('expires_at', models.DateTimeField(blank=True, null=True)),
                ('max_execution_time', models.DurationField(default=datetime.timedelta(seconds=3600))),
                ('max_retries', models.IntegerField(default=3)),
                ('retry_count', models.IntegerField(default=0, editable=False)),
                ('attempt', models.IntegerField(default=0, editable=False)),
                ('worker', models.UUIDField(editable=False, null=True)),
                ('lease_until', models.DateTimeField(editable=False, null=True)),
                ('blocked_by', models.IntegerField(default=0, editable=False)),
                ('unique_key', models.CharField(blank=True, max_length=255, null=True)),
                ('concurrency_key', models.CharField(blank=True, max_length=255, null=True)),
                ('progress', models.JSONField(editable=False, null=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('assigned_agent', models.ForeignKey(blank=True, db_column='assigned_agent_id', null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='assigned_tasks', to='agents.agent')),
                ('created_by_agent', models.ForeignKey(blank=True, db_column='created_by_agent_id', null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='created_tasks', to='agents.agent')),
                ('parent', models.ForeignKey(blank=True, db_column='parent_task_id', null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='children', to='tasks.taskidentity')),
            ],
            options={
                'db_table': '"tasks"."queue"',
            },
        ),
        CreatePartitionedTable(
            name='Execution',
            sql='tasks/0001_executions',
            strategy='range',
            key='execution_id',
            fields=[
                ('execution_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('execution_attempt', models.IntegerField(default=1)),
                ('started_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('completed_at', models.DateTimeField(null=True)),
                ('status', pg.fields.EnumField(choices=[('pending', 'Pending'), ('queued', 'Queued'), ('running', 'Running'), ('paused', 'Paused'), ('completed', 'Completed'), ('failed', 'Failed'), ('cancelled', 'Cancelled')], default='running', max_length=32, type_name='task_status_type')),
                ('result', models.JSONField(null=True)),
                ('error_message', models.TextField(null=True)),
                ('error_details', models.JSONField(null=True)),
                ('cpu_time_ms', models.BigIntegerField(null=True)),
                ('memory_peak_mb', models.IntegerField(null=True)),
                ('io_operations', models.BigIntegerField(null=True)),
                ('agent', models.ForeignKey(db_column='agent_id', on_delete=django.db.models.deletion.DO_NOTHING, related_name='executions', to='agents.agent')),
                ('task', models.ForeignKey(db_column='task_id', db_constraint=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='executions', to='tasks.task')),
            ],
            options={
                'db_table': '"tasks"."executions"',
            },
        ),
        CreateTable(
            name='Dependency',
            sql='tasks/0001_dependencies',
            fields=[
                ('dependency_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('dependency_type', models.CharField(choices=[('completion', 'Completion'), ('start', 'Start'), ('data', 'Data'), ('resource', 'Resource')], default='completion', max_length=50)),
                ('released_at', models.DateTimeField(editable=False, null=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('depends_on', models.ForeignKey(db_column='depends_on_task_id', on_delete=django.db.models.deletion.DO_NOTHING, related_name='dependents', to='tasks.taskidentity')),
                ('task', models.ForeignKey(db_column='task_id', on_delete=django.db.models.deletion.DO_NOTHING, related_name='dependencies', to='tasks.taskidentity')),
            ],
            options={
                'verbose_name_plural': 'dependencies',
                'db_table': '"tasks"."dependencies"',
            },
        ),
        CreateTable(
            name='UniqueKey',
            sql='tasks/0001_unique_keys',
            fields=[
                ('unique_key', models.CharField(max_length=255, primary_key=True, serialize=False)),
                ('task', models.ForeignKey(db_column='task_id', on_delete=django.db.models.deletion.DO_NOTHING, related_name='unique_keys', to='tasks.taskidentity')),
            ],
            options={
                'db_table': '"tasks"."unique_keys"',
            },
        ),
        RunSQLFile('tasks', '0001_status_transitions'),
        RunSQLFile('tasks', '0001_functions'),
    ]

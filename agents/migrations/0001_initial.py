import agents.models
import django.db.models.deletion
import django.db.models.expressions
import django.db.models.functions.datetime
import pg.fields
import pg.uuid7
from django.db import migrations, models

from partitions.operations import CreatePartitionedTable
from pg.operations import CreateSchema, CreateTable, RunSQLFile


class Migration(migrations.Migration):
    initial = True
    dependencies = [('partitions', '0001_initial')]
    operations = [
        CreateSchema('agents'),
        CreateTable(
            name='Agent',
            sql='agents/0001_registry',
            fields=[
                ('agent_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('agent_type', models.CharField(max_length=50)),
                ('agent_name', models.CharField(max_length=255)),
                ('status', pg.fields.EnumField(choices=[('initializing', 'Initializing'), ('active', 'Active'), ('idle', 'Idle'), ('suspended', 'Suspended'), ('terminated', 'Terminated'), ('error', 'Error')], default='initializing', editable=False, max_length=32, type_name='agent_status_type')),
                ('capabilities', models.JSONField(blank=True, default=dict)),
                ('configuration', models.JSONField(blank=True, default=dict)),
                ('metadata', models.JSONField(default=agents.models.default_metadata)),
                ('liveness', models.CharField(choices=[('unknown', 'Unknown'), ('alive', 'Alive'), ('suspect', 'Suspect'), ('lost', 'Lost')], db_default='unknown', default='unknown', editable=False, max_length=10)),
                ('epoch', models.BigIntegerField(db_default=1, default=1, editable=False)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('last_heartbeat', models.DateTimeField(blank=True, editable=False, null=True)),
                ('parent', models.ForeignKey(blank=True, db_column='parent_agent_id', null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='children', to='agents.agent')),
            ],
            options={
                'db_table': '"agents"."registry"',
            },
        ),
        CreateTable(
            name='TypeSettings',
            sql='agents/0001_type_settings',
            fields=[
                ('agent_type', models.CharField(max_length=50, primary_key=True, serialize=False)),
                ('keep_state_history', models.BooleanField(db_default=False, default=False)),
                ('suspect_after_seconds', models.IntegerField(db_default=60, default=60)),
                ('lost_after_seconds', models.IntegerField(db_default=180, default=180)),
            ],
            options={
                'verbose_name_plural': 'type settings',
                'db_table': '"agents"."type_settings"',
            },
        ),
        CreateTable(
            name='Heartbeat',
            sql='agents/0001_heartbeats',
            fields=[
                ('agent', models.OneToOneField(db_column='agent_id', on_delete=django.db.models.deletion.DO_NOTHING, primary_key=True, related_name='heartbeat', serialize=False, to='agents.agent')),
                ('last_heartbeat', models.DateTimeField()),
                ('details', models.JSONField(blank=True, db_default=django.db.models.expressions.RawSQL("'{}'::jsonb", []), default=dict)),
            ],
            options={
                'db_table': '"agents"."heartbeats"',
            },
        ),
        CreatePartitionedTable(
            name='AgentState',
            sql='agents/0001_state',
            strategy='hash',
            key='agent_id',
            modulus=8,
            fields=[
                ('state_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('state_key', models.CharField(max_length=255)),
                ('state_value', models.JSONField()),
                ('version', models.BigIntegerField(db_default=1, editable=False)),
                ('checksum', models.GeneratedField(db_persist=True, expression=django.db.models.expressions.RawSQL('text_sha256(state_value::text)', []), output_field=models.CharField(max_length=64, null=True))),
                ('kv_epoch', models.BigIntegerField(db_default=0, editable=False)),
                ('kv_revision', models.BigIntegerField(db_default=0, editable=False)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('expires_at', models.DateTimeField(blank=True, null=True)),
                ('agent', models.ForeignKey(db_column='agent_id', on_delete=django.db.models.deletion.DO_NOTHING, related_name='state', to='agents.agent')),
            ],
            options={
                'verbose_name_plural': 'agent state',
                'db_table': '"agents"."state"',
            },
        ),
        CreateTable(
            name='Checkpoint',
            sql='agents/0001_checkpoints',
            fields=[
                ('checkpoint_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('checkpoint_name', models.CharField(blank=True, max_length=255, null=True)),
                ('state_snapshot', models.JSONField()),
                ('kv_revision', models.BigIntegerField(blank=True, null=True)),
                ('trigger_event', models.CharField(blank=True, max_length=100, null=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('agent', models.ForeignKey(db_column='agent_id', on_delete=django.db.models.deletion.DO_NOTHING, related_name='checkpoints', to='agents.agent')),
            ],
            options={
                'db_table': '"agents"."checkpoints"',
            },
        ),
        CreatePartitionedTable(
            name='LifecycleEvent',
            sql='agents/0001_lifecycle_events',
            strategy='range',
            key='event_id',
            fields=[
                ('event_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('event_type', models.CharField(max_length=50)),
                ('previous_status', pg.fields.EnumField(choices=[('initializing', 'Initializing'), ('active', 'Active'), ('idle', 'Idle'), ('suspended', 'Suspended'), ('terminated', 'Terminated'), ('error', 'Error')], max_length=32, null=True, type_name='agent_status_type')),
                ('new_status', pg.fields.EnumField(choices=[('initializing', 'Initializing'), ('active', 'Active'), ('idle', 'Idle'), ('suspended', 'Suspended'), ('terminated', 'Terminated'), ('error', 'Error')], max_length=32, null=True, type_name='agent_status_type')),
                ('event_data', models.JSONField(default=dict)),
                ('created_at', models.GeneratedField(db_persist=True, expression=django.db.models.expressions.RawSQL('partitions.uuid7_time(event_id)', []), output_field=models.DateTimeField(null=True))),
                ('agent', models.ForeignKey(db_column='agent_id', on_delete=django.db.models.deletion.DO_NOTHING, related_name='lifecycle_events', to='agents.agent')),
                ('triggered_by', models.ForeignKey(db_column='triggered_by', null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='triggered_events', to='agents.agent')),
            ],
            options={
                'db_table': '"agents"."lifecycle_events"',
            },
        ),
        CreatePartitionedTable(
            name='StateHistory',
            sql='agents/0001_state_history',
            strategy='range',
            key='history_id',
            fields=[
                ('history_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('state_key', models.CharField(max_length=255)),
                ('state_value', models.JSONField(null=True)),
                ('version', models.BigIntegerField()),
                ('kv_revision', models.BigIntegerField()),
                ('changed_at', models.GeneratedField(db_persist=True, expression=django.db.models.expressions.RawSQL('partitions.uuid7_time(history_id)', []), output_field=models.DateTimeField(null=True))),
                ('agent', models.ForeignKey(db_column='agent_id', db_constraint=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='state_history', to='agents.agent')),
            ],
            options={
                'verbose_name_plural': 'state history',
                'db_table': '"agents"."state_history"',
            },
        ),
        RunSQLFile('agents', '0001_status_transitions'),
        RunSQLFile('agents', '0001_functions'),
    ]

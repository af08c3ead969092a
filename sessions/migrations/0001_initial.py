import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

from partitions.operations import CreatePartitionedTable
from pg.operations import CreateSchema, RunSQLFile


class Migration(migrations.Migration):
    initial = True
    dependencies = [('agents', '0001_initial')]
    operations = [
        CreateSchema('sessions'),
        CreatePartitionedTable(
            name='Session',
            sql='sessions/0001_active',
            strategy='hash',
            key='session_id',
            modulus=8,
            fields=[
                ('session_id', models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ('token_digest', models.BinaryField(max_length=32)),
                ('user_id', models.CharField(blank=True, editable=False, max_length=255, null=True)),
                ('session_type', models.CharField(choices=[('interactive', 'Interactive'), ('api', 'Api'), ('system', 'System'), ('background', 'Background')], db_default='interactive', default='interactive', editable=False, max_length=50)),
                ('session_data', models.JSONField(blank=True, default=dict)),
                ('preferences', models.JSONField(blank=True, default=dict)),
                ('ip_address', models.GenericIPAddressField(blank=True, editable=False, null=True)),
                ('user_agent', models.TextField(blank=True, editable=False, null=True)),
                ('permissions', models.JSONField(blank=True, default=dict)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('last_activity', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('expires_at', models.DateTimeField()),
                ('agent', models.ForeignKey(blank=True, db_column='agent_id', editable=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='sessions', to='agents.agent')),
            ],
            options={
                'db_table': '"sessions"."active"',
            },
        ),
        RunSQLFile('sessions', '0001_functions'),
    ]

import django.db.models.functions.datetime
import pg.uuid7
from django.db import migrations, models

from pg.locks import LockTables
from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0002_executions_log')]
    operations = [
        LockTables({'tasks.types': 'ACCESS EXCLUSIVE', 'tasks.pauses': 'ACCESS EXCLUSIVE'}),
        migrations.SeparateDatabaseAndState(
            database_operations=[RunSQLFile('tasks', '0003_limits')],
            state_operations=[
                migrations.AddField('TaskType', 'queue', models.CharField(default='default', max_length=100)),
                migrations.AddField('Pause', 'paused_until', models.DateTimeField(blank=True, null=True)),
                migrations.CreateModel(
                    name='QueuePause',
                    fields=[
                        ('queue', models.CharField(max_length=100, primary_key=True, serialize=False)),
                        ('reason', models.TextField(blank=True, default='')),
                        ('paused_by', models.CharField(blank=True, default='', max_length=150)),
                        ('paused_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                        ('paused_until', models.DateTimeField(blank=True, null=True)),
                    ],
                    options={'db_table': '"tasks"."queue_pauses"'},
                ),
                migrations.CreateModel(
                    name='Limit',
                    fields=[
                        ('limit_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                        ('scope', models.CharField(choices=[('all', 'All'), ('queue', 'Queue'), ('type', 'Type'), ('key', 'Key')], max_length=10)),
                        ('name', models.CharField(blank=True, default='', max_length=255)),
                        ('max_running', models.PositiveIntegerField(blank=True, null=True)),
                        ('max_running_per_key', models.PositiveIntegerField(blank=True, null=True)),
                        ('rate_limit', models.PositiveIntegerField(blank=True, null=True)),
                        ('rate_seconds', models.FloatField(blank=True, null=True)),
                        ('fair_keys', models.BooleanField(default=False)),
                        ('weight', models.FloatField(default=1)),
                        ('declared_by', models.CharField(default='handler', editable=False, max_length=150)),
                        ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                    ],
                    options={'db_table': '"tasks"."limits"'},
                ),
            ],
        ),
    ]

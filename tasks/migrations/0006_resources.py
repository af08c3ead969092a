import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.datetime
import pg.fields
from django.db import migrations, models

from pg.locks import LockTables
from pg.operations import RunSQLFile

PRIORITIES = [('low', 'Low'), ('normal', 'Normal'), ('high', 'High'), ('urgent', 'Urgent'), ('critical', 'Critical')]


class Migration(migrations.Migration):
    dependencies = [('tasks', '0005_dependencies')]
    operations = [
        LockTables({'tasks.queue': 'ACCESS EXCLUSIVE', 'tasks.identity': 'SHARE ROW EXCLUSIVE'}),
        migrations.SeparateDatabaseAndState(
            database_operations=[RunSQLFile('tasks', '0006_resources')],
            state_operations=[
                migrations.AddField('Task', 'resources', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=255), blank=True, null=True, size=None)),
                migrations.CreateModel(
                    name='ResourceHolder',
                    fields=[
                        ('resource', models.CharField(max_length=255, primary_key=True, serialize=False)),
                        ('held_since', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                        ('task', models.ForeignKey(db_column='task_id', on_delete=django.db.models.deletion.DO_NOTHING, related_name='resource_holders', to='tasks.taskidentity')),
                    ],
                    options={'db_table': '"tasks"."resource_holders"'},
                ),
                migrations.CreateModel(
                    name='ResourceWaiter',
                    fields=[
                        ('task', models.OneToOneField(db_column='task_id', on_delete=django.db.models.deletion.DO_NOTHING, primary_key=True, related_name='resource_waiter', serialize=False, to='tasks.taskidentity')),
                        ('task_type', models.CharField(max_length=100)),
                        ('resource', models.CharField(max_length=255)),
                        ('priority', pg.fields.EnumField(choices=PRIORITIES, max_length=32, type_name='task_priority_type')),
                        ('waits_since', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                    ],
                    options={'db_table': '"tasks"."resource_waiters"'},
                ),
            ],
        ),
    ]

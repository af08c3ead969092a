import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0013_no_switch')]
    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[RunSQLFile('tasks', '0014_task_pauses')],
            state_operations=[
                migrations.CreateModel(
                    name='TaskPause',
                    fields=[
                        ('task', models.OneToOneField(db_column='task_id', on_delete=django.db.models.deletion.DO_NOTHING, primary_key=True, related_name='task_pause', serialize=False, to='tasks.taskidentity')),
                        ('reason', models.TextField(blank=True, default='')),
                        ('paused_by', models.CharField(blank=True, default='', max_length=150)),
                        ('paused_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                        ('paused_until', models.DateTimeField(blank=True, null=True)),
                        ('resumed_at', models.DateTimeField(editable=False, null=True)),
                        ('stands_since', models.DateTimeField(editable=False, null=True)),
                    ],
                    options={'db_table': '"tasks"."task_pauses"'},
                ),
            ],
        ),
    ]

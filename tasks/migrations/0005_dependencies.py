from django.db import migrations, models

from pg.locks import LockTables
from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0004_queue_keys')]
    operations = [
        LockTables(
            {
                'tasks.dependencies': 'ACCESS EXCLUSIVE',
                'tasks.unique_keys': 'ACCESS EXCLUSIVE',
            }
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[RunSQLFile('tasks', '0005_dependencies')],
            state_operations=[
                migrations.AddField('Dependency', 'input_name', models.CharField(blank=True, max_length=255, null=True)),
                migrations.AddField('UniqueKey', 'held_until', models.DateTimeField(null=True)),
                migrations.AddField('UniqueKey', 'free_at_start', models.BooleanField(default=False)),
            ],
        ),
    ]

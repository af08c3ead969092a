from django.db import migrations, models

from pg.locks import LockTables
from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0001_initial')]
    operations = [
        LockTables({'tasks.executions': 'ACCESS EXCLUSIVE'}),
        migrations.SeparateDatabaseAndState(
            database_operations=[RunSQLFile('tasks', '0002_executions_log')],
            state_operations=[
                migrations.AddField('Execution', 'log_lines', models.TextField(null=True)),
            ],
        ),
    ]

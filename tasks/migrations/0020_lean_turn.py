from django.db import migrations

from pg.locks import LockTables
from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0019_own_rows')]
    operations = [
        LockTables({'tasks.queue': 'ACCESS EXCLUSIVE', 'tasks.executions': 'ACCESS EXCLUSIVE'}),
        RunSQLFile('tasks', '0020_lean_turn'),
    ]

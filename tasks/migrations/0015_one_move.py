from django.db import migrations

from pg.locks import LockTables
from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0014_task_pauses')]
    operations = [LockTables({'tasks.executions': 'ACCESS EXCLUSIVE'}), RunSQLFile('tasks', '0015_one_move')]

from django.db import migrations

from pg.locks import LockTables
from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0010_turns')]
    operations = [LockTables({'tasks.queue': 'ACCESS EXCLUSIVE', 'tasks.dependencies': 'ACCESS EXCLUSIVE'}), RunSQLFile('tasks', '0011_release')]

from django.db import migrations

from pg.locks import LockTables
from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('bridge', '0001_initial'), ('tasks', '0001_initial')]
    operations = [LockTables({'tasks.queue': 'ACCESS EXCLUSIVE'}), RunSQLFile('bridge', '0002_task_capture')]

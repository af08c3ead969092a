from django.db import migrations

from pg.locks import LockTables
from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0003_limits')]
    operations = [LockTables({'tasks.queue': 'SHARE'}), RunSQLFile('tasks', '0004_queue_keys')]

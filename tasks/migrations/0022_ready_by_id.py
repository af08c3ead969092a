from django.db import migrations

from pg.locks import LockTables
from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0021_release_in_turn')]
    operations = [LockTables({'tasks.queue': 'ACCESS EXCLUSIVE'}), RunSQLFile('tasks', '0022_ready_by_id')]

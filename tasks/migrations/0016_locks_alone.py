from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0015_one_move')]
    operations = [RunSQLFile('tasks', '0016_locks_alone')]

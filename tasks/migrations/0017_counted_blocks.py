from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0016_locks_alone')]
    operations = [RunSQLFile('tasks', '0017_counted_blocks')]

from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0003_limits')]
    operations = [RunSQLFile('tasks', '0004_queue_keys')]

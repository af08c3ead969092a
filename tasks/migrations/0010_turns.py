from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0009_history')]
    operations = [RunSQLFile('tasks', '0010_turns')]

from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0020_lean_turn')]
    operations = [RunSQLFile('tasks', '0021_release_in_turn')]

from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0012_cascade')]
    operations = [RunSQLFile('tasks', '0013_no_switch')]

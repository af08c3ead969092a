from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0011_release')]
    operations = [RunSQLFile('tasks', '0012_cascade')]

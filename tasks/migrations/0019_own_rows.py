from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0018_fewer_statements')]
    operations = [RunSQLFile('tasks', '0019_own_rows')]

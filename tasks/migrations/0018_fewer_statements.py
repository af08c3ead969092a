from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0017_counted_blocks')]
    operations = [RunSQLFile('tasks', '0018_fewer_statements')]

from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('messaging', '0001_initial')]
    operations = [RunSQLFile('messaging', '0002_unused_indexes')]

from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('partitions', '0003_grants')]
    operations = [RunSQLFile('partitions', '0004_ranges')]

from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('partitions', '0002_upkeep')]
    operations = [RunSQLFile('partitions', '0003_grants')]

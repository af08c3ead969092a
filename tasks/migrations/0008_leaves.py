from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0007_cycle_search'), ('partitions', '0002_upkeep')]
    operations = [RunSQLFile('tasks', '0008_leaves')]

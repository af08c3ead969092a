from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('monitoring', '0005_process_pools')]
    operations = [RunSQLFile('monitoring', '0006_hypothetical')]

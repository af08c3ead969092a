from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('agent_sessions', '0001_initial')]
    operations = [RunSQLFile('sessions', '0002_purge')]

from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("bridge", "0004_hydration")]
    operations = [RunSQLFile("bridge", "0005_state_capture")]

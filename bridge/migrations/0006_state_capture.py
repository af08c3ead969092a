from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("bridge", "0005_hold")]
    operations = [RunSQLFile("bridge", "0006_state_capture")]

from django.db import migrations

from pg.locks import LockTables
from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("bridge", "0005_hold")]
    operations = [LockTables({"agents.state": "SHARE ROW EXCLUSIVE"}), RunSQLFile("bridge", "0006_state_capture")]

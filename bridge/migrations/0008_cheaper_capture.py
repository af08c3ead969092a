from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("bridge", "0007_task_rows")]
    operations = [RunSQLFile("bridge", "0008_cheaper_capture")]

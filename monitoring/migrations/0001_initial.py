from django.db import migrations

from pg.operations import CreateSchema, RunSQLFile


class Migration(migrations.Migration):
    initial = True
    dependencies = [("pg", "0001_initial")]
    operations = [CreateSchema("monitoring"), RunSQLFile("monitoring", "0001_statistics")]

from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [RunSQLFile("pg", "0001_types")]

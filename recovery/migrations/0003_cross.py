from django.db import migrations

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [("recovery", "0002_physical"), ("bridge", "0005_hold")]
    operations = [RunSQLFile("recovery", "0003_cross")]

from django.db import migrations

from pg.operations import RunEachStatement


class Migration(migrations.Migration):
    atomic = False
    dependencies = [('agents', '0001_initial')]
    operations = [RunEachStatement('agents', '0002_unused_indexes')]

from django.db import migrations

from pg.operations import RunEachStatement


class Migration(migrations.Migration):
    atomic = False
    dependencies = [('knowledge', '0001_initial')]
    operations = [RunEachStatement('knowledge', '0002_indexes')]

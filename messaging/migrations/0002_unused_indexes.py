from django.db import migrations

from pg.locks import LockTables
from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('messaging', '0001_initial')]
    operations = [LockTables({'messages.log': 'ACCESS EXCLUSIVE'}), RunSQLFile('messaging', '0002_unused_indexes')]

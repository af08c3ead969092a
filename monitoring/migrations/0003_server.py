from django.db import migrations, models

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [
        ('monitoring', '0002_alarms'),
    ]

    operations = [
        RunSQLFile('monitoring', '0003_server'),
        migrations.CreateModel(
            name='Activity',
            fields=[
                ('pid', models.IntegerField(primary_key=True, serialize=False)),
                ('application_name', models.TextField(verbose_name='application')),
                ('username', models.TextField(null=True, verbose_name='role')),
                ('database_name', models.TextField(null=True, verbose_name='database')),
                ('client_addr', models.GenericIPAddressField(null=True, verbose_name='address')),
                ('state', models.TextField()),
                ('waits_for', models.TextField()),
                ('backend_start', models.DateTimeField(verbose_name='connected')),
                ('transaction_seconds', models.FloatField(null=True)),
                ('state_seconds', models.FloatField(help_text='since its statement began, or since it has been idle', null=True)),
                ('blockers', models.IntegerField(help_text='how many sessions it waits for')),
                ('statement', models.TextField(help_text='the present one, or the last')),
            ],
            options={
                'verbose_name': 'session',
                'db_table': '"monitoring"."activity"',
                'managed': False,
            },
        ),
        migrations.CreateModel(
            name='Index',
            fields=[
                ('index_id', models.BigIntegerField(primary_key=True, serialize=False)),
                ('schema_name', models.TextField(verbose_name='schema')),
                ('table_name', models.TextField(verbose_name='table')),
                ('index_name', models.TextField(verbose_name='index')),
                ('index_size', models.TextField(verbose_name='size')),
                ('index_scans', models.BigIntegerField(verbose_name='scans')),
                ('tuples_read', models.BigIntegerField()),
                ('tuples_fetched', models.BigIntegerField()),
                ('usage_ratio', models.DecimalField(decimal_places=2, max_digits=8)),
                ('recommendation', models.TextField()),
            ],
            options={
                'verbose_name_plural': 'indexes',
                'db_table': '"monitoring"."indexes"',
                'managed': False,
            },
        ),
        migrations.CreateModel(
            name='LockWait',
            fields=[
                ('path', models.TextField(help_text='the pids from the head of the tree down to this one', primary_key=True, serialize=False)),
                ('position', models.BigIntegerField()),
                ('depth', models.IntegerField()),
                ('pid', models.IntegerField()),
                ('application_name', models.TextField(verbose_name='application')),
                ('state', models.TextField()),
                ('waiting_seconds', models.FloatField(null=True)),
                ('wants', models.TextField()),
                ('object', models.TextField()),
                ('transaction_seconds', models.FloatField(null=True)),
                ('blocks', models.IntegerField(help_text='how many sessions wait for it')),
                ('statement', models.TextField()),
            ],
            options={
                'verbose_name': 'lock wait',
                'db_table': '"monitoring"."lock_tree"',
                'managed': False,
            },
        ),
        migrations.CreateModel(
            name='Replica',
            fields=[
                ('pid', models.IntegerField(primary_key=True, serialize=False)),
                ('application_name', models.TextField(verbose_name='name')),
                ('client_addr', models.GenericIPAddressField(null=True, verbose_name='address')),
                ('state', models.TextField(null=True)),
                ('sync_state', models.TextField(null=True)),
                ('lag_bytes', models.BigIntegerField(null=True)),
                ('lag_seconds', models.FloatField()),
            ],
            options={
                'db_table': '"monitoring"."replicas"',
                'managed': False,
            },
        ),
        migrations.CreateModel(
            name='ReplicationSlot',
            fields=[
                ('slot_name', models.TextField(primary_key=True, serialize=False)),
                ('slot_type', models.TextField()),
                ('is_active', models.BooleanField()),
                ('wal_status', models.TextField()),
                ('retained_bytes', models.BigIntegerField()),
            ],
            options={
                'verbose_name': 'replication slot',
                'db_table': '"monitoring"."replication_slots"',
                'managed': False,
            },
        ),
        migrations.CreateModel(
            name='Statement',
            fields=[
                ('query_id', models.BigIntegerField(primary_key=True, serialize=False)),
                ('calls', models.BigIntegerField()),
                ('total_ms', models.FloatField()),
                ('mean_ms', models.FloatField()),
                ('max_ms', models.FloatField()),
                ('rows_per_call', models.FloatField()),
                ('cache_hit_ratio', models.FloatField(null=True)),
                ('wal_bytes', models.BigIntegerField()),
                ('statement', models.TextField()),
            ],
            options={
                'db_table': '"monitoring"."statements"',
                'managed': False,
            },
        ),
        migrations.CreateModel(
            name='Table',
            fields=[
                ('table_id', models.BigIntegerField(primary_key=True, serialize=False)),
                ('table_name', models.TextField(verbose_name='table')),
                ('partitions', models.IntegerField()),
                ('total_bytes', models.BigIntegerField()),
                ('index_bytes', models.BigIntegerField()),
                ('row_estimate', models.BigIntegerField()),
                ('dead_rows', models.BigIntegerField()),
                ('dead_ratio', models.FloatField()),
                ('bloat_bytes', models.BigIntegerField(help_text='estimated: pages beyond those that the rows would fill')),
                ('sequential_scans', models.BigIntegerField()),
                ('index_scans', models.BigIntegerField()),
                ('hot_ratio', models.FloatField(help_text='updates that touched no index', null=True)),
                ('xid_age', models.BigIntegerField(verbose_name='transactions since freeze')),
                ('vacuumed_at', models.DateTimeField(null=True)),
                ('analyzed_at', models.DateTimeField(null=True)),
            ],
            options={
                'db_table': '"monitoring"."tables"',
                'managed': False,
            },
        ),
    ]

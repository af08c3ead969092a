import django.contrib.postgres.fields
import django.db.models.expressions
import django.db.models.functions.datetime
import django.utils.timezone
import pg.uuid7
from django.db import migrations, models

from pg.operations import RunSQLFile

BACKUP_FIELDS = [
    ('parent_id', models.UUIDField(null=True)),
    ('system_identifier', models.TextField(null=True)),
    ('timeline', models.IntegerField(null=True)),
    ('start_lsn', models.BigIntegerField(null=True)),
    ('end_lsn', models.BigIntegerField(null=True)),
    ('has_wal', models.BooleanField(db_default=False, default=False)),
]


class Migration(migrations.Migration):
    dependencies = [('recovery', '0001_initial')]
    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[RunSQLFile('recovery', '0002_physical')],
            state_operations=[
                *(migrations.AddField('backup', name, field) for name, field in BACKUP_FIELDS),
                migrations.AlterModelOptions(
                    name='backup',
                    options={
                        'ordering': ['-backup_id'],
                        'permissions': [
                            ('verify_backup', 'Can verify backups by restoring them'),
                            ('make_backup', 'Can make backups'),
                            ('pin_backup', 'Can keep backups from being pruned'),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name='ArchiveState',
                    fields=[
                        ('system_identifier', models.TextField(primary_key=True, serialize=False)),
                        ('timeline', models.IntegerField()),
                        ('segment_bytes', models.BigIntegerField()),
                        ('checked_at', models.DateTimeField()),
                        ('archived_lsn', models.BigIntegerField()),
                        ('last_commit_at', models.DateTimeField(null=True)),
                        ('problems', django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), db_default=django.db.models.expressions.RawSQL("'{}'::text[]", []), default=list, size=None)),
                    ],
                    options={
                        'verbose_name_plural': 'archive state',
                        'db_table': '"recovery"."archive_state"',
                    },
                ),
                migrations.CreateModel(
                    name='RestorePoint',
                    fields=[
                        ('point_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                        ('name', models.TextField()),
                        ('timeline', models.IntegerField()),
                        ('lsn', models.BigIntegerField()),
                        ('segment', models.CharField(max_length=24)),
                    ],
                    options={
                        'db_table': '"recovery"."restore_points"',
                        'ordering': ['-lsn'],
                    },
                ),
                migrations.CreateModel(
                    name='Timeline',
                    fields=[
                        ('timeline', models.IntegerField(primary_key=True, serialize=False)),
                        ('parent', models.IntegerField()),
                        ('switch_lsn', models.BigIntegerField()),
                    ],
                    options={
                        'db_table': '"recovery"."timelines"',
                        'ordering': ['-timeline'],
                    },
                ),
                migrations.CreateModel(
                    name='WalSegment',
                    fields=[
                        ('name', models.CharField(max_length=24, primary_key=True, serialize=False)),
                        ('timeline', models.IntegerField()),
                        ('number', models.BigIntegerField()),
                        ('segment_bytes', models.BigIntegerField()),
                        ('stored_bytes', models.BigIntegerField()),
                        ('archived_at', models.DateTimeField()),
                        ('checked_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), default=django.utils.timezone.now)),
                        ('first_commit_at', models.DateTimeField(null=True)),
                        ('last_commit_at', models.DateTimeField(null=True)),
                        ('problem', models.TextField(null=True)),
                    ],
                    options={
                        'verbose_name': 'WAL segment',
                        'db_table': '"recovery"."wal_segments"',
                        'ordering': ['-number', '-timeline'],
                    },
                ),
            ],
        ),
        RunSQLFile('recovery', '0002_functions'),
    ]

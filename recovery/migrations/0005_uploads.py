import django.db.models.functions.datetime
import django.utils.timezone
import pg.uuid7
from django.db import migrations, models

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('recovery', '0004_partial')]
    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[RunSQLFile('recovery', '0005_uploads')],
            state_operations=[
                migrations.AddField('backup', 'stored_at', models.DateTimeField(null=True)),
                migrations.CreateModel(
                    name='Upload',
                    fields=[
                        ('upload_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                        ('store', models.TextField()),
                        ('key', models.TextField()),
                        ('backup_id', models.UUIDField(null=True)),
                        ('size_bytes', models.BigIntegerField()),
                        ('stored_bytes', models.BigIntegerField(null=True)),
                        ('sha256', models.TextField(null=True)),
                        ('key_id', models.TextField(null=True)),
                        ('queued_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), default=django.utils.timezone.now)),
                        ('uploaded_at', models.DateTimeField(null=True)),
                        ('attempts', models.IntegerField(db_default=0, default=0)),
                        ('error', models.TextField(null=True)),
                        ('doomed_at', models.DateTimeField(null=True)),
                    ],
                    options={
                        'verbose_name': 'object in the store',
                        'verbose_name_plural': 'objects in the store',
                        'db_table': '"recovery"."uploads"',
                        'ordering': ['-upload_id'],
                    },
                ),
            ],
        ),
    ]

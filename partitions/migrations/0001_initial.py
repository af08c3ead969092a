import django.db.models.functions.datetime
from django.db import migrations, models

from pg.operations import CreateSchema, CreateTable, RunSQLFile


class Migration(migrations.Migration):
    initial = True
    dependencies = [('pg', '0001_initial')]
    operations = [
        CreateSchema('partitions'),
        RunSQLFile('partitions', '0001_uuid7'),
        CreateTable(
            name='Policy',
            sql='partitions/0001_policies',
            fields=[
                ('table_name', models.CharField(max_length=127, primary_key=True, serialize=False)),
                ('make_ahead_days', models.IntegerField(db_default=14, default=14)),
                ('keep_days', models.IntegerField(blank=True, db_default=30, default=30, null=True)),
                ('on_expiry', models.CharField(choices=[('archive', 'Archive'), ('drop', 'Drop'), ('keep', 'Keep')], db_default='archive', default='archive', max_length=10)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
            ],
            options={
                'verbose_name_plural': 'policies',
                'db_table': '"partitions"."policies"',
                'ordering': ['table_name'],
            },
        ),
        RunSQLFile('partitions', '0001_functions'),
    ]

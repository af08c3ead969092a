import django.db.models.functions.datetime
from django.db import migrations, models

from pg.operations import RunSQLFile


class Migration(migrations.Migration):
    dependencies = [('tasks', '0008_leaves')]
    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[RunSQLFile('tasks', '0009_history')],
            state_operations=[
                migrations.CreateModel(
                    name='Retention',
                    fields=[
                        ('task_type', models.CharField(max_length=100, primary_key=True, serialize=False)),
                        ('keep_completed_days', models.FloatField(blank=True, null=True)),
                        ('keep_failed_days', models.FloatField(blank=True, null=True)),
                        ('keep_cancelled_days', models.FloatField(blank=True, null=True)),
                        ('declared_by', models.CharField(blank=True, default='', editable=False, max_length=150)),
                        ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                    ],
                    options={'db_table': '"tasks"."retention"', 'verbose_name_plural': 'retention'},
                ),
                migrations.CreateModel(
                    name='RecurringSlot',
                    fields=[
                        ('name', models.CharField(max_length=200, primary_key=True, serialize=False)),
                        ('last_slot', models.DateTimeField()),
                        ('last_task_id', models.UUIDField(null=True)),
                        ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                    ],
                    options={'db_table': '"tasks"."recurring_slots"'},
                ),
                migrations.CreateModel(
                    name='DeadLetter',
                    fields=[],
                    options={'proxy': True, 'indexes': [], 'constraints': []},
                    bases=('tasks.task',),
                ),
            ],
        ),
    ]

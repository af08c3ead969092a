import django.core.validators
import django.db.models.deletion
import django.db.models.expressions
import django.db.models.functions.datetime
import django.utils.timezone
import pg.fields
import pg.uuid7
from django.db import migrations, models

from partitions.operations import CreatePartitionedTable
from pg.operations import CreateSchema, CreateTable, RunSQLFile


class Migration(migrations.Migration):
    initial = True
    dependencies = [('agents', '0001_initial')]
    operations = [
        CreateSchema('messages'),
        CreateTable(
            name='Channel',
            sql='messaging/0001_channels',
            fields=[
                ('channel_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('channel_name', models.CharField(max_length=255, unique=True)),
                ('channel_type', models.CharField(choices=[('broadcast', 'Broadcast'), ('direct', 'Direct'), ('topic', 'Topic'), ('queue', 'Queue')], max_length=50)),
                ('description', models.TextField(blank=True, null=True)),
                ('configuration', models.JSONField(blank=True, default=dict)),
                ('is_active', models.BooleanField(default=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
            ],
            options={
                'db_table': '"messages"."channels"',
                'ordering': ['channel_name'],
            },
        ),
        CreatePartitionedTable(
            name='Message',
            sql='messaging/0001_log',
            strategy='range',
            key='message_id',
            fields=[
                ('message_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('broadcast_to_type', models.CharField(blank=True, max_length=50, null=True)),
                ('message_type', pg.fields.EnumField(choices=[('command', 'Command'), ('query', 'Query'), ('response', 'Response'), ('notification', 'Notification'), ('heartbeat', 'Heartbeat'), ('error', 'Error')], max_length=32, type_name='message_type')),
                ('subject', models.CharField(blank=True, max_length=255, null=True)),
                ('payload', models.JSONField(blank=True, default=dict)),
                ('headers', models.JSONField(blank=True, default=dict)),
                ('correlation_id', models.UUIDField(blank=True, null=True)),
                ('reply_to', models.CharField(blank=True, max_length=255, null=True)),
                ('sent_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('delivered_at', models.DateTimeField(null=True)),
                ('processed_at', models.DateTimeField(null=True)),
                ('delivery_attempts', models.IntegerField(default=0, validators=[django.core.validators.MinValueValidator(0)])),
                ('priority', models.IntegerField(default=0, validators=[django.core.validators.MinValueValidator(0), django.core.validators.MaxValueValidator(10)])),
                ('expires_at', models.DateTimeField(blank=True, null=True)),
                ('is_persistent', models.BooleanField(default=True)),
                ('channel', models.ForeignKey(blank=True, db_column='channel_id', null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='messages', to='messaging.channel')),
                ('from_agent', models.ForeignKey(blank=True, db_column='from_agent_id', null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='sent_messages', to='agents.agent')),
                ('to_agent', models.ForeignKey(blank=True, db_column='to_agent_id', null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='received_messages', to='agents.agent')),
            ],
            options={
                'db_table': '"messages"."log"',
            },
        ),
        CreatePartitionedTable(
            name='Delivery',
            sql='messaging/0001_deliveries',
            strategy='range',
            key='delivery_id',
            fields=[
                ('delivery_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('state', models.CharField(choices=[('pending', 'Pending'), ('delivered', 'Delivered'), ('processed', 'Processed'), ('failed', 'Failed'), ('expired', 'Expired')], db_default='pending', default='pending', max_length=20)),
                ('priority', models.IntegerField(db_default=0, default=0)),
                ('attempts', models.IntegerField(db_default=0, default=0)),
                ('next_at', models.DateTimeField(default=django.utils.timezone.now, null=True)),
                ('expires_at', models.DateTimeField(db_default=django.db.models.expressions.RawSQL("now() + interval '7 days'", []))),
                ('error', models.TextField(null=True)),
                ('created_at', models.GeneratedField(db_persist=True, expression=django.db.models.expressions.RawSQL('partitions.uuid7_time(delivery_id)', []), output_field=models.DateTimeField(null=True))),
                ('delivered_at', models.DateTimeField(null=True)),
                ('processed_at', models.DateTimeField(null=True)),
                ('agent', models.ForeignKey(db_column='agent_id', null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='deliveries', to='agents.agent')),
                ('queue', models.ForeignKey(db_column='queue_id', db_constraint=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='deliveries', to='messaging.channel')),
                ('message', models.ForeignKey(db_column='message_id', db_constraint=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='deliveries', to='messaging.message')),
            ],
            options={
                'verbose_name_plural': 'deliveries',
                'db_table': '"messages"."deliveries"',
            },
        ),
        CreateTable(
            name='Subscription',
            sql='messaging/0001_subscriptions',
            fields=[
                ('subscription_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('message_pattern', models.CharField(blank=True, max_length=255, null=True)),
                ('filters', models.JSONField(blank=True, default=dict)),
                ('is_active', models.BooleanField(default=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('agent', models.ForeignKey(db_column='agent_id', on_delete=django.db.models.deletion.DO_NOTHING, related_name='subscriptions', to='agents.agent')),
                ('channel', models.ForeignKey(db_column='channel_id', on_delete=django.db.models.deletion.DO_NOTHING, related_name='subscriptions', to='messaging.channel')),
            ],
            options={
                'db_table': '"messages"."subscriptions"',
            },
        ),
        RunSQLFile('messaging', '0001_functions'),
        RunSQLFile('messaging', '0001_partitions'),
    ]

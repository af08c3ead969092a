import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

from pg.operations import CreateTable


class Migration(migrations.Migration):
    dependencies = [
        ('monitoring', '0001_initial'),
    ]

    operations = [
        CreateTable(
            name='AlarmChannel',
            sql='monitoring/0002_alarm_channels',
            fields=[
                ('channel_id', models.BigAutoField(primary_key=True, serialize=False)),
                ('name', models.TextField(unique=True)),
                ('kind', models.TextField(choices=[('webhook', 'Webhook'), ('email', 'Email'), ('nats', 'Nats')])),
                ('target', models.TextField(help_text='URL, address or subject; env:NAME takes it from the environment')),
                ('minimum_state', models.TextField(choices=[('warning', 'Warning'), ('critical', 'Critical')], default='warning')),
                ('is_enabled', models.BooleanField(default=True)),
            ],
            options={
                'verbose_name': 'alarm channel',
                'db_table': '"monitoring"."alarm_channels"',
            },
        ),
        CreateTable(
            name='AlarmRule',
            sql='monitoring/0002_alarm_rules',
            fields=[
                ('rule_id', models.BigAutoField(primary_key=True, serialize=False)),
                ('name', models.TextField(unique=True)),
                ('description', models.TextField(blank=True, default='')),
                ('hint', models.TextField(blank=True, default='', help_text='what to do when it rings')),
                ('metric', models.TextField(help_text='as in /metrics, for instance mistersmith_outbox_oldest_seconds')),
                ('labels', models.JSONField(blank=True, default=dict, help_text='only series with these, for instance {"pool": "web"}')),
                ('direction', models.TextField(choices=[('above', 'Above'), ('below', 'Below')], default='above')),
                ('warning', models.FloatField(blank=True, null=True)),
                ('critical', models.FloatField(blank=True, null=True)),
                ('clear_margin', models.FloatField(default=0, help_text='a state ends only when the value is back beyond its threshold by this much')),
                ('hold_seconds', models.IntegerField(default=0, help_text='a value must stay beyond a threshold (or back) for this long before the state changes')),
                ('is_enabled', models.BooleanField(default=True)),
                ('state', models.TextField(choices=[('ok', 'Ok'), ('warning', 'Warning'), ('critical', 'Critical')], default='ok', editable=False)),
                ('state_since', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('pending_state', models.TextField(choices=[('ok', 'Ok'), ('warning', 'Warning'), ('critical', 'Critical')], editable=False, null=True)),
                ('pending_since', models.DateTimeField(editable=False, null=True)),
                ('value', models.FloatField(editable=False, null=True)),
                ('problem', models.TextField(default='', editable=False, help_text='why there is no value')),
                ('evaluated_at', models.DateTimeField(editable=False, null=True)),
                ('silenced_until', models.DateTimeField(editable=False, null=True)),
                ('silence_reason', models.TextField(default='', editable=False)),
            ],
            options={
                'verbose_name': 'alarm',
                'db_table': '"monitoring"."alarm_rules"',
            },
        ),
        CreateTable(
            name='AlarmEvent',
            sql='monitoring/0002_alarm_events',
            fields=[
                ('event_id', models.BigAutoField(primary_key=True, serialize=False)),
                ('from_state', models.TextField(choices=[('ok', 'Ok'), ('warning', 'Warning'), ('critical', 'Critical')])),
                ('to_state', models.TextField(choices=[('ok', 'Ok'), ('warning', 'Warning'), ('critical', 'Critical')])),
                ('value', models.FloatField(null=True)),
                ('was_silenced', models.BooleanField(default=False)),
                ('happened_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('rule', models.ForeignKey(on_delete=django.db.models.deletion.DO_NOTHING, related_name='events', to='monitoring.alarmrule')),
            ],
            options={
                'verbose_name': 'alarm event',
                'db_table': '"monitoring"."alarm_events"',
            },
        ),
        CreateTable(
            name='Notification',
            sql='monitoring/0002_notifications',
            fields=[
                ('notification_id', models.BigAutoField(primary_key=True, serialize=False)),
                ('status', models.TextField(choices=[('pending', 'Pending'), ('sent', 'Sent'), ('failed', 'Failed')], default='pending')),
                ('attempts', models.IntegerField(default=0)),
                ('next_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('sent_at', models.DateTimeField(null=True)),
                ('error', models.TextField(default='')),
                ('channel', models.ForeignKey(on_delete=django.db.models.deletion.DO_NOTHING, related_name='notifications', to='monitoring.alarmchannel')),
                ('event', models.ForeignKey(on_delete=django.db.models.deletion.DO_NOTHING, related_name='notifications', to='monitoring.alarmevent')),
            ],
            options={
                'db_table': '"monitoring"."notifications"',
            },
        ),
    ]

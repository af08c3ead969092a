from django.apps import AppConfig
from django.conf import settings
from django.db.models.signals import post_migrate


class MonitoringConfig(AppConfig):
    name = "monitoring"

    def ready(self) -> None:
        from monitoring import checks, process_pools, senders, tracing
        from monitoring.defaults import install_alarms
        from operators.schedules import declare_schedule

        if settings.TRACING:
            tracing.start()
        checks.register()
        senders.register()
        process_pools.register()
        post_migrate.connect(install_alarms, sender=self)
        declare_schedule(
            "monitoring: judge alarms",
            "monitoring.evaluate_alarms",
            every_seconds=15,
            description="Reads the metrics that alarms watch, and sends what changed.",
            expire_seconds=15,
        )
        declare_schedule(
            "monitoring: load",
            "monitoring.snap_load",
            every_seconds=60,
            description="Keeps what the server and each pool do, for trends and `pools suggest`.",
            expire_seconds=50,
        )
        declare_schedule(
            "monitoring: growth",
            "monitoring.snap_growth",
            every_seconds=3600,
            description="Keeps the sizes of the tables, for trends.",
            expire_seconds=1800,
        )
        declare_schedule(
            "monitoring: purge alarm events",
            "monitoring.purge_alarm_events",
            crontab="20 3 * * *",
            description="Deletes alarm events older than 400 days.",
        )

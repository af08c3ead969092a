from django.apps import AppConfig


class RecoveryConfig(AppConfig):
    name = "recovery"

    def ready(self) -> None:
        from operators.schedules import declare_schedule
        from recovery import checks

        checks.register()
        declare_schedule(
            checks.SCHEDULE,
            "recovery.daily_backup",
            crontab="30 2 * * *",
            expire_seconds=6 * 3600,
            description="Backs the database up, verifies that by restoring it, removes what is out of retention.",
        )

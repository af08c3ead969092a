from django.apps import AppConfig


class RecoveryConfig(AppConfig):
    name = "recovery"

    def ready(self) -> None:
        from operators.schedules import declare_schedule
        from recovery import checks, cross_checks, figures, store_checks

        checks.register()
        figures.register()
        cross_checks.register()
        cross_checks.declare_alarms()
        store_checks.register()
        declare_schedule(
            checks.SCHEDULE,
            "recovery.daily_backup",
            crontab="30 2 * * *",
            expire_seconds=6 * 3600,
            description="Backs up the database and what changed of the server, verifies, prunes.",
        )
        declare_schedule(
            "recovery: weekly backup",
            "recovery.weekly_backup",
            crontab="0 1 * * 0",
            expire_seconds=6 * 3600,
            description="A logical and a base backup, a restore drill of it, prunes.",
        )
        declare_schedule(
            "recovery: restore drill",
            "recovery.drill",
            crontab="30 5 * * *",
            expire_seconds=6 * 3600,
            description="Restores the server into a scratch one, to now or to a moment in the window, and checks it.",
        )
        declare_schedule(
            "recovery: WAL archive",
            "recovery.look_at_archive",
            every_seconds=60,
            expire_seconds=50,
            description="Looks for gaps and damage in the WAL archive.",
        )
        declare_schedule(
            "recovery: cross-system backup",
            "recovery.cross_backup",
            crontab="45 3 * * *",
            expire_seconds=6 * 3600,
            description="PostgreSQL and JetStream at one moment, every snapshot proved.",
        )
        declare_schedule(
            "recovery: cross-system drill",
            "recovery.cross_drill",
            crontab="15 6 * * *",
            expire_seconds=6 * 3600,
            description="Restores both systems beside the running ones and compares every row with its key.",
        )
        declare_schedule(
            "recovery: partial drill",
            "recovery.partial_drill",
            crontab="45 6 * * *",
            expire_seconds=6 * 3600,
            description="Brings one table of the newest logical backup back beside today's, and counts its rows.",
        )
        declare_schedule(
            "recovery: WAL to the store",
            "recovery.upload_wal",
            every_seconds=60,
            expire_seconds=50,
            description="Sends archived WAL to the store of BACKUP_STORE_URL.",
        )
        declare_schedule(
            "recovery: backups to the store",
            "recovery.upload_backups",
            every_seconds=60,
            expire_seconds=50,
            description="Sends finished backups to the store, deletes there what was pruned.",
        )

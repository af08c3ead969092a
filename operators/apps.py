from django.apps import AppConfig, apps
from django.db.models.signals import post_migrate


class OperatorsConfig(AppConfig):
    name = "operators"

    def ready(self) -> None:
        from operators.schedules import declare_schedule, install_schedules

        # after beat's own tables are there
        post_migrate.connect(install_schedules, sender=apps.get_app_config("django_celery_beat"))
        declare_schedule(
            "operators: seal the audit",
            "operators.seal_audit",
            every_seconds=60,
            description="Chains new audit entries, so that a later change would show.",
            expire_seconds=60,
        )
        declare_schedule(
            "operators: bulk jobs",
            "operators.run_bulk",
            every_seconds=5,
            description="Works on actions that somebody asked for on many rows.",
            expire_seconds=5,
        )

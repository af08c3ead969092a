from django.apps import AppConfig
from django.db.models.signals import post_migrate


class CockpitConfig(AppConfig):
    name = "cockpit"

    def ready(self) -> None:
        from cockpit import alarms, beat  # noqa: F401  (beat connects to Celery's signal)
        from cockpit.checks import register
        from cockpit.roles import grant_rights

        register()
        alarms.register()
        post_migrate.connect(grant_rights, dispatch_uid="cockpit.roles")

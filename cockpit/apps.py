from django.apps import AppConfig


class CockpitConfig(AppConfig):
    name = "cockpit"

    def ready(self) -> None:
        from cockpit import beat  # noqa: F401  (connects to Celery's signal)
        from cockpit.checks import register

        register()

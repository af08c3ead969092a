from django.apps import AppConfig


class CockpitConfig(AppConfig):
    name = "cockpit"

    def ready(self) -> None:
        from cockpit.checks import register

        register()

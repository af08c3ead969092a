from django.apps import AppConfig


class SettingsConfig(AppConfig):
    name = "config"
    label = "settings"

    def ready(self) -> None:
        from config import checks  # noqa: F401  (registers them)

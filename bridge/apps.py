from django.apps import AppConfig


class BridgeConfig(AppConfig):
    name = "bridge"

    def ready(self) -> None:
        from bridge import checks, fastpath

        checks.register()
        fastpath.connect_signals()

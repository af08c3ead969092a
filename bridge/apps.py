from django.apps import AppConfig


class BridgeConfig(AppConfig):
    name = "bridge"

    def ready(self) -> None:
        from bridge import cache_checks as cache_checks  # registers itself
        from bridge import checks, fastpath, messages

        checks.register()
        fastpath.connect_signals()
        messages.connect_signals()

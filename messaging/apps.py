from django.apps import AppConfig


class MessagingConfig(AppConfig):
    name = "messaging"

    def ready(self) -> None:
        from messaging.checks import register
        from operators.schedules import declare_schedule

        register()
        declare_schedule(
            "messaging: sweep",
            "messaging.sweep",
            every_seconds=15,
            expire_seconds=60,
            description="Expires deliveries that nobody took in time; fails those that were never acknowledged.",
        )

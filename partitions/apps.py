from django.apps import AppConfig


class PartitionsConfig(AppConfig):
    name = "partitions"

    def ready(self) -> None:
        from partitions.checks import register

        register()

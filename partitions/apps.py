from django.apps import AppConfig


class PartitionsConfig(AppConfig):
    name = "partitions"

    def ready(self) -> None:
        from operators.schedules import declare_schedule
        from partitions.checks import register

        register()
        declare_schedule(
            "partitions: upkeep",
            "partitions.apply",
            crontab="10 0 * * *",
            description="Makes partitions ahead, removes what is out of retention. Also run at start.",
        )

from django.apps import AppConfig


class KnowledgeConfig(AppConfig):
    name = "knowledge"

    def ready(self) -> None:
        from knowledge import checks
        from operators.schedules import declare_schedule

        checks.register()
        declare_schedule(
            "knowledge: embed",
            "knowledge.embed",
            every_seconds=10,
            expire_seconds=10,
            description="Give vectors to new facts, a few seconds at a time",
        )
        declare_schedule(
            "knowledge: embed everything",
            "knowledge.embed_everything",
            crontab="17 3 * * *",
            description="Look at all facts for some that still lack a vector",
        )

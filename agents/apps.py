from django.apps import AppConfig


class AgentsConfig(AppConfig):
    name = "agents"

    def ready(self) -> None:
        from agents.checks import register
        from operators.schedules import declare_schedule

        register()
        declare_schedule(
            "agents: judge liveness",
            "agents.judge_liveness",
            every_seconds=15,
            description="Heartbeats that stopped make an agent suspect, then lost.",
        )
        declare_schedule(
            "agents: purge expired state",
            "agents.purge_expired_state",
            every_seconds=60,
            description="Deletes state whose expires_at has passed.",
        )

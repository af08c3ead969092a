from django.apps import AppConfig


class AgentSessionsConfig(AppConfig):
    name = "sessions"
    label = "agent_sessions"  # django.contrib.sessions owns the label "sessions"
    verbose_name = "Agent sessions"

    def ready(self) -> None:
        from operators.schedules import declare_schedule
        from sessions.checks import register

        register()
        declare_schedule(
            "sessions: purge expired",
            "sessions.purge_expired",
            every_seconds=300,
            description="Deletes sessions whose expires_at has passed.",
        )

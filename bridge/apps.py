from django.apps import AppConfig


class BridgeConfig(AppConfig):
    name = "bridge"

    def ready(self) -> None:
        from bridge import cache_checks as cache_checks  # registers itself
        from bridge import checks, fastpath, messages, metrics, settling
        from monitoring.defaults import declare_alarm
        from operators.schedules import declare_schedule

        checks.register()
        metrics.register()
        fastpath.connect_signals()
        messages.connect_signals()
        settling.connect_signals()
        declare_schedule(
            "bridge: purge tombstones",
            "bridge.purge_tombstones",
            crontab="17 3 * * *",
            description="Forgets the positions of keys that were deleted before anything that a FLUSH stream holds.",
        )
        declare_alarm(
            "flush is late",
            "mistersmith_flush_lag_seconds",
            warning=1,
            critical=5,
            hold_seconds=30,
            description="What agents write reaches PostgreSQL late (p95).",
            hint="manage.py bridge status: what is pending, does PostgreSQL answer?",
        )
        declare_alarm(
            "messages that could not be applied",
            "mistersmith_bridge_dead_letters_rows",
            warning=0,
            description="Dead letters: what agents sent and PostgreSQL will not take.",
            hint="admin, Bridge, dead letters; manage.py bridge redrive",
        )
        declare_alarm(
            "clocks of PostgreSQL and NATS differ",
            "mistersmith_bridge_clocks_apart_seconds",
            warning=1,
            critical=60,
            hold_seconds=60,
            description="What agents let expire expires in PostgreSQL too early or too late by as much.",
            hint="manage.py doctor: bridge.clocks says which is ahead; let both machines follow the same time servers",
        )
        declare_schedule(
            "bridge: sweep hydration",
            "bridge.sweep_hydration",
            every_seconds=30,
            description="Loads the state of agents that began to work; waits for the last writes of those that ended.",
        )
        declare_schedule(
            "bridge: reconcile",
            "bridge.reconcile",
            every_seconds=3600,
            description="Compares PostgreSQL with the KV buckets and repairs the buckets.",
        )

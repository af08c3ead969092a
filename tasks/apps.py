from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_save
from django.utils.module_loading import autodiscover_modules


class TasksConfig(AppConfig):
    name = "tasks"

    def ready(self) -> None:
        from operators.schedules import declare_schedule
        from tasks import bulk, checks, worker  # noqa: F401  (worker connects to Celery's signals)

        checks.register()
        autodiscover_modules("handlers")
        declare_schedule(
            "tasks: sweep",
            "tasks.sweep",
            every_seconds=1,
            expire_seconds=5,
            description="Tickets for ready tasks; lost leases, due, expired tasks and lost workers are seen to.",
        )
        bulk.register()
        declare_schedule(
            "tasks: retention",
            "tasks.prune",
            every_seconds=600,
            expire_seconds=600,
            description="Removes finished tasks whose time is over; failures stay longer.",
        )
        post_save.connect(send_ticket, sender=self.get_model("Task"), dispatch_uid="tasks.ticket")


def send_ticket(instance: Any, created: bool, **_: Any) -> None:
    """A task made through the ORM or the admin starts as fast as one that was enqueued."""
    from tasks.tickets import send_on_commit

    if created:
        send_on_commit([instance.task_type])

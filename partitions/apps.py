from django.apps import AppConfig
from django.db.models.signals import post_migrate


class PartitionsConfig(AppConfig):
    name = "partitions"

    def ready(self) -> None:
        from django.conf import settings

        from monitoring.models import Snapshot
        from operators.schedules import declare_schedule
        from partitions import checks, metrics, s3, upload
        from partitions.declare import by_time
        from partitions.policies import install_policies

        Snapshot.partitioning = by_time("snapshot_id", keep_days=90, on_expiry="drop")  # type: ignore[attr-defined]
        checks.register()
        metrics.register()
        if url := getattr(settings, "PARTITIONS_ARCHIVE_S3_URL", ""):
            upload.register_store(s3.S3Store(url))
        post_migrate.connect(install_policies, sender=self, dispatch_uid="partitions.policies")
        declare_schedule(
            "partitions: upkeep",
            "partitions.apply",
            crontab="10 0 * * *",
            description="Makes partitions ahead, archives and removes what is out of retention.",
        )
        declare_schedule(
            "partitions: watch",
            "partitions.watch",
            every_seconds=300,
            expire_seconds=240,
            description="Makes partitions at once where fewer than 3 days ahead have one.",
        )

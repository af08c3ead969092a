from django.apps import AppConfig, apps
from django.db.models.signals import pre_migrate


class PgConfig(AppConfig):
    name = "pg"

    def ready(self) -> None:
        from pg import background, checks  # noqa: F401  (registers them)
        from pg.demands import refuse_unfit_server

        background.connect_signals()
        # the signal comes once for each app that has models; one of them is enough
        sender = apps.get_app_config("contenttypes")
        pre_migrate.connect(refuse_unfit_server, sender=sender, dispatch_uid="pg.demands")

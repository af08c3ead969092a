from django.apps import AppConfig
from django.db.models.signals import pre_migrate


class PgConfig(AppConfig):
    name = "pg"

    def ready(self) -> None:
        from pg.demands import refuse_unfit_server

        pre_migrate.connect(refuse_unfit_server, sender=self, dispatch_uid="pg.demands")

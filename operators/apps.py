from django.apps import AppConfig, apps
from django.db.models.signals import post_migrate


class OperatorsConfig(AppConfig):
    name = "operators"

    def ready(self) -> None:
        from operators.schedules import install_schedules

        # sent only for apps with models, and ours has none: the schedules are rows of this one anyway
        post_migrate.connect(install_schedules, sender=apps.get_app_config("django_celery_beat"))

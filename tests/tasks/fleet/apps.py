from django.apps import AppConfig


class FleetConfig(AppConfig):
    name = "tests.tasks.fleet"
    label = "fleet"

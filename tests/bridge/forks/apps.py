from django.apps import AppConfig


class ForksConfig(AppConfig):
    name = "tests.bridge.forks"
    label = "forks"

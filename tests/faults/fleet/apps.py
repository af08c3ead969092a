from django.apps import AppConfig


class FaultFleetConfig(AppConfig):
    name = "tests.faults.fleet"
    label = "fault_fleet"

"""Alarms are tables; what the server does now are views."""

from monitoring.models.alarms import SEVERITY, AlarmChannel, AlarmEvent, AlarmRule, Notification, State
from monitoring.models.server import Activity, Index, LockWait, Replica, ReplicationSlot, Statement, Table

__all__ = [
    "SEVERITY",
    "Activity",
    "AlarmChannel",
    "AlarmEvent",
    "AlarmRule",
    "Index",
    "LockWait",
    "Notification",
    "Replica",
    "ReplicationSlot",
    "State",
    "Statement",
    "Table",
]

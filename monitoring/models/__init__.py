"""Alarms and history are tables; what the server does now are views."""

from monitoring.models.alarms import SEVERITY, AlarmChannel, AlarmEvent, AlarmRule, Notification, State
from monitoring.models.history import Snapshot
from monitoring.models.pools import ProcessPool
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
    "ProcessPool",
    "Replica",
    "ReplicationSlot",
    "Snapshot",
    "State",
    "Statement",
    "Table",
]

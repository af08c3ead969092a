"""The look of the admin: title, colours, navigation. django-unfold reads it; rooms are named as strings."""

from collections.abc import Callable, Collection
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy

Entry = tuple[str, str, str]  # title, icon (Material Symbols, bundled), "<app label>.<model>"

ROOMS: list[tuple[str, list[Entry]]] = [
    (
        "Agents",
        [
            ("Agents", "smart_toy", "agents.agent"),
            ("State", "data_object", "agents.agentstate"),
            ("Checkpoints", "bookmark", "agents.checkpoint"),
            ("Lifecycle events", "timeline", "agents.lifecycleevent"),
            ("State history", "history", "agents.statehistory"),
            ("Heartbeats", "ecg_heart", "agents.heartbeat"),
            ("Sessions", "key", "agent_sessions.session"),
            ("Settings by type", "tune", "agents.typesettings"),
        ],
    ),
    (
        "Tasks",
        [
            ("Tasks", "task_alt", "tasks.task"),
            ("Dead letters", "report", "tasks.deadletter"),
            ("Executions", "play_circle", "tasks.execution"),
            ("Dependencies", "account_tree", "tasks.dependency"),
            ("Types", "category", "tasks.tasktype"),
            ("Limits", "speed", "tasks.limit"),
            ("Pauses", "pause_circle", "tasks.pause"),
            ("Paused queues", "motion_photos_paused", "tasks.queuepause"),
            ("Paused tasks", "pause_presentation", "tasks.taskpause"),
            ("Held resources", "lock", "tasks.resourceholder"),
            ("Waiting for resources", "hourglass_empty", "tasks.resourcewaiter"),
            ("Retention", "auto_delete", "tasks.retention"),
            ("Recurring", "event_repeat", "tasks.recurringslot"),
            ("Unique keys", "fingerprint", "tasks.uniquekey"),
            ("Identities", "tag", "tasks.taskidentity"),
        ],
    ),
    (
        "Messages",
        [
            ("Messages", "mail", "messaging.message"),
            ("Deliveries", "local_shipping", "messaging.delivery"),
            ("Channels", "forum", "messaging.channel"),
            ("Subscriptions", "notifications", "messaging.subscription"),
        ],
    ),
    (
        "Knowledge",
        [
            ("Facts", "lightbulb", "knowledge.fact"),
            ("Embeddings", "scatter_plot", "knowledge.embedding"),
            ("Embedding models", "neurology", "knowledge.embeddingmodel"),
        ],
    ),
    (
        "Bridge",
        [
            ("Outbox", "outbox", "bridge.outboxrow"),
            ("Quarantine", "report", "bridge.quarantinedrow"),
            ("Dead letters", "mark_email_unread", "bridge.deadletter"),
            ("Hydration", "opacity", "bridge.hydration"),
            ("Conflicts", "call_split", "bridge.conflict"),
            ("Conflict rules", "gavel", "bridge.conflictrule"),
            ("Flushed buckets", "water_drop", "bridge.source"),
            ("Processes", "memory", "bridge.process"),
            ("Hold", "front_hand", "bridge.hold"),
        ],
    ),
    (
        "Monitoring",
        [
            ("Alarms", "notifications_active", "monitoring.alarmrule"),
            ("Alarm events", "history", "monitoring.alarmevent"),
            ("Alarm channels", "campaign", "monitoring.alarmchannel"),
            ("Notifications", "outgoing_mail", "monitoring.notification"),
        ],
    ),
    (
        "Server",
        [
            ("Pools", "lan", "monitoring.processpool"),
            ("Sessions", "device_hub", "monitoring.activity"),
            ("Lock waits", "lock", "monitoring.lockwait"),
            ("Tables", "table", "monitoring.table"),
            ("Indexes", "format_list_numbered", "monitoring.index"),
            ("Statements", "query_stats", "monitoring.statement"),
            ("Replicas", "content_copy", "monitoring.replica"),
            ("Replication slots", "bookmarks", "monitoring.replicationslot"),
            ("Trends", "monitoring", "monitoring.snapshot"),
        ],
    ),
    (
        "Recovery",
        [
            ("Backups", "backup", "recovery.backup"),
            ("Restore drills", "health_and_safety", "recovery.testresult"),
            ("WAL segments", "linear_scale", "recovery.walsegment"),
            ("Restore points", "flag", "recovery.restorepoint"),
            ("Timelines", "timeline", "recovery.timeline"),
            ("WAL archive", "inventory_2", "recovery.archivestate"),
            ("Objects in the store", "cloud_upload", "recovery.upload"),
        ],
    ),
    (
        "System",
        [
            ("Schedules", "schedule", "django_celery_beat.periodictask"),
            ("Partitions", "table_rows", "partitions.policy"),
            ("Partition upkeep", "cleaning_services", "partitions.run"),
            ("Partition archives", "inventory_2", "partitions.archive"),
            ("Partition marks", "bookmark_flag", "partitions.mark"),
            ("Users", "person", "auth.user"),
            ("Groups", "group", "auth.group"),
            ("Audit", "policy", "operators.auditentry"),
            ("Bulk jobs", "checklist", "operators.bulkjob"),
            ("Changes by hand", "edit_note", "admin.logentry"),
        ],
    ),
]


Named = tuple[
    str, str, str, str
]  # title, icon, the address's name, the model that one must be allowed to view

# pages beside the lists, first in their room
PAGES: dict[str, list[Named]] = {
    "Knowledge": [("Search", "search", "admin:knowledge_fact_search", "knowledge.fact")],
}


def entries_of(room: str, without: Collection[str]) -> list[Named]:
    """Return the room's pages, then its lists; none of the apps in `without`, which are not installed."""
    lists = [
        (title, icon, f"admin:{model.replace('.', '_')}_changelist", model)
        for title, icon, model in dict(ROOMS)[room]
    ]
    return [entry for entry in [*PAGES.get(room, []), *lists] if entry[3].partition(".")[0] not in without]


def link(entry: Named, entries: list[Named]) -> dict[str, Any]:
    """Return an entry as the theme reads it; `entries`: all of its room."""
    title, icon, name, model = entry
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(name),
        "permission": may_view(model),
        "active": lambda request: name == open_entry(request.path, [entry[2] for entry in entries]),
    }


def open_entry(path: str, names: list[str]) -> str | None:
    """Return the name whose address the page at `path` is, or is below; of several the nearest."""
    found = [name for name in names if path.startswith(str(reverse_lazy(name)))]
    return max(found, key=lambda name: len(str(reverse_lazy(name))), default=None)


def may_view(model: str) -> Callable[[HttpRequest], bool]:
    app, _, name = model.partition(".")

    def ask(request: HttpRequest) -> bool:
        return any(request.user.has_perm(f"{app}.{verb}_{name}") for verb in ("view", "change"))

    return ask


def navigation(without: Collection[str]) -> list[dict[str, Any]]:
    home = {"title": "The fleet", "icon": "monitoring", "link": reverse_lazy("admin:index")}
    rooms = {room: entries_of(room, without) for room, _ in ROOMS}
    groups = [
        {
            "title": room,
            "collapsible": True,
            "separator": True,
            "items": [link(entry, entries) for entry in entries],
        }
        for room, entries in rooms.items()
        if entries
    ]
    return [{"items": [home]}, *groups]


def make_face(without: Collection[str] = ()) -> dict[str, Any]:
    """Return django-unfold's settings; the apps in `without` are not installed."""
    return {
        "SITE_TITLE": "Mister Smith",
        "SITE_HEADER": "Mister Smith",
        "SITE_SUBHEADER": "The control plane of the fleet",
        "SITE_SYMBOL": "hub",
        "SITE_URL": None,
        "SITE_FAVICONS": [
            {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("cockpit/icon.svg")}
        ],
        "STYLES": [lambda request: static("cockpit/site.css")],
        "SCRIPTS": [lambda request: static("cockpit/site.js")],
        "SHOW_HISTORY": True,
        "SHOW_VIEW_ON_SITE": False,
        "DASHBOARD_CALLBACK": "cockpit.home.fill_home",
        # the palette finds pages; searching every model would run a query on each big table
        "COMMAND": {"search_models": False, "show_history": False},
        "SIDEBAR": {"show_search": True, "show_all_applications": True, "navigation": navigation(without)},
    }

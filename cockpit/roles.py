"""Three groups of rights for people: viewer, operator, administrator. They are granted anew after each migrate.

viewer sees all but users, groups and what others did by hand. operator also changes rows, runs every action, pauses and
enqueues tasks, ends sessions; not what decides about data or runs jobs: partition policies, schedules. administrator
may all. Rights that you add stay; those that you take away come back: make a group of your own instead.
"""

from typing import Any

from django.apps import AppConfig

VIEWER, OPERATOR, ADMINISTRATOR = ROLES = ("viewer", "operator", "administrator")
ADMINISTRATORS_ONLY = frozenset({"admin", "auth", "contenttypes", "sessions"})  # Django's own
LOOKED_AT_ONLY = frozenset({"django_celery_beat", "partitions"})
OPERATOR_ALSO = frozenset(
    {
        "agent_sessions.delete_session",
        "knowledge.delete_fact",  # the action `retract`
        "tasks.add_limit",
        "tasks.add_pause",
        "tasks.add_queuepause",
        "tasks.add_retention",
        "tasks.add_task",
        "tasks.delete_limit",
        "tasks.delete_pause",
        "tasks.delete_queuepause",
        "tasks.delete_retention",
    }
)
PLAIN_VERBS = ("add_", "delete_", "change_", "view_")


def grant_rights(sender: AppConfig, apps: Any, using: str, **_: Any) -> None:
    """Give the three groups their rights on one app. After post_migrate of that app; may run any number of times."""
    try:
        group_model, permission_model = apps.get_model("auth", "Group"), apps.get_model("auth", "Permission")
    except LookupError:  # auth is not there yet, or not any more
        return
    rights = list(
        permission_model.objects.using(using).filter(content_type__app_label=sender.label).only("codename")
    )
    for role in ROLES if rights else ():
        group, _made = group_model.objects.using(using).get_or_create(name=role)
        group.permissions.add(*(right for right in rights if is_granted(role, sender.label, right.codename)))


def is_granted(role: str, app: str, codename: str) -> bool:
    if role == ADMINISTRATOR:
        return True
    if app in ADMINISTRATORS_ONLY:
        return False
    if codename.startswith("view_"):
        return True
    if role == VIEWER or app in LOOKED_AT_ONLY:
        return False
    is_action = not codename.startswith(PLAIN_VERBS)
    return is_action or codename.startswith("change_") or f"{app}.{codename}" in OPERATOR_ALSO

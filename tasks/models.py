"""The queue, its dependencies and its history (guide 9.2, schema `tasks`)."""

from datetime import timedelta

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now

from agents.models import Agent
from partitions.declare import by_list, by_time
from pg.fields import EnumField
from pg.querysets import TimeWindowQuerySet
from pg.uuid7 import uuid7


class TaskStatus(models.TextChoices):
    """pending: blocked or scheduled; queued: ready; running: leased. Allowed moves: tasks.status_transitions."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TaskPriority(models.TextChoices):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    URGENT = "urgent"
    CRITICAL = "critical"


class TaskIdentity(models.Model):
    """One row per task over all types: what parents and dependencies point to. Kept by triggers."""

    task_id = models.UUIDField(primary_key=True)
    task_type = models.CharField(max_length=100)

    class Meta:
        db_table = '"tasks"."identity"'
        verbose_name_plural = "task identities"

    def __str__(self) -> str:
        return f"{self.task_type} {self.task_id}"


class Task(models.Model):
    """A piece of the agents' work. `attempt` counts claims; with `worker` and `lease_until` it fences late writers."""

    partitioning = by_list("task_type", unique_key=("task_id", "task_type"))

    task_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    task_type = models.CharField(max_length=100)
    task_name = models.CharField(max_length=255, null=True, blank=True)
    assigned_agent = models.ForeignKey(
        Agent,
        models.DO_NOTHING,
        null=True,
        blank=True,
        db_column="assigned_agent_id",
        related_name="assigned_tasks",
    )
    created_by_agent = models.ForeignKey(
        Agent,
        models.DO_NOTHING,
        null=True,
        blank=True,
        db_column="created_by_agent_id",
        related_name="created_tasks",
    )
    parent = models.ForeignKey(
        TaskIdentity,
        models.DO_NOTHING,
        null=True,
        blank=True,
        db_column="parent_task_id",
        related_name="children",
    )
    payload = models.JSONField(default=dict, blank=True)
    configuration = models.JSONField(default=dict, blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    status = EnumField(
        type_name="task_status_type", choices=TaskStatus, default=TaskStatus.PENDING, editable=False
    )
    status_reason = models.TextField(null=True, blank=True, editable=False)
    priority = EnumField(type_name="task_priority_type", choices=TaskPriority, default=TaskPriority.NORMAL)
    scheduled_at = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, editable=False)
    completed_at = models.DateTimeField(null=True, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    max_execution_time = models.DurationField(default=timedelta(hours=1))
    max_retries = models.IntegerField(default=3)
    retry_count = models.IntegerField(default=0, editable=False)
    attempt = models.IntegerField(default=0, editable=False)
    worker = models.UUIDField(null=True, editable=False)
    lease_until = models.DateTimeField(null=True, editable=False)
    blocked_by = models.IntegerField(default=0, editable=False)
    unique_key = models.CharField(max_length=255, null=True, blank=True)
    concurrency_key = models.CharField(max_length=255, null=True, blank=True)
    progress = models.JSONField(null=True, editable=False)
    resources = ArrayField(models.CharField(max_length=255), null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = '"tasks"."queue"'

    def __str__(self) -> str:
        return self.task_name or f"{self.task_type} {self.task_id}"


class Dependency(models.Model):
    """`task` waits for `depends_on`, as its kind says (tasks.enqueue.After). `released_at` None: it still blocks."""

    class Kind(models.TextChoices):
        COMPLETION = "completion"
        START = "start"
        DATA = "data"
        RESOURCE = "resource"

    dependency_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    task = models.ForeignKey(
        TaskIdentity, models.DO_NOTHING, db_column="task_id", related_name="dependencies"
    )
    depends_on = models.ForeignKey(
        TaskIdentity, models.DO_NOTHING, db_column="depends_on_task_id", related_name="dependents"
    )
    dependency_type = models.CharField(max_length=50, choices=Kind, default=Kind.COMPLETION)
    released_at = models.DateTimeField(null=True, editable=False)
    input_name = models.CharField(max_length=255, null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = '"tasks"."dependencies"'
        verbose_name_plural = "dependencies"

    def __str__(self) -> str:
        return f"{self.task_id} waits for {self.depends_on_id}"


class Execution(models.Model):
    """One attempt at a task by one worker process. Outlives its task. Partitioned by the day in `execution_id`."""

    partitioning = by_time("execution_id")

    execution_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    task = models.ForeignKey(
        Task, models.DO_NOTHING, db_column="task_id", db_constraint=False, related_name="executions"
    )
    agent = models.ForeignKey(Agent, models.DO_NOTHING, db_column="agent_id", related_name="executions")
    execution_attempt = models.IntegerField(default=1)
    started_at = models.DateTimeField(db_default=Now())
    completed_at = models.DateTimeField(null=True)
    status = EnumField(type_name="task_status_type", choices=TaskStatus, default=TaskStatus.RUNNING)
    result = models.JSONField(null=True)
    error_message = models.TextField(null=True)
    error_details = models.JSONField(null=True)
    cpu_time_ms = models.BigIntegerField(null=True)
    memory_peak_mb = models.IntegerField(null=True)
    io_operations = models.BigIntegerField(null=True)
    log_lines = models.TextField(null=True)

    objects = TimeWindowQuerySet.as_manager()

    class Meta:
        db_table = '"tasks"."executions"'

    def __str__(self) -> str:
        return f"attempt {self.execution_attempt} of {self.task_id}"


class TaskType(models.Model):
    """A registered type; `partition_name` is its leaf of tasks.queue, `options` what its handler declares."""

    task_type = models.CharField(max_length=100, primary_key=True)
    partition_name = models.CharField(max_length=127)
    options = models.JSONField(default=dict)
    registered_at = models.DateTimeField(db_default=Now(), editable=False)
    queue = models.CharField(max_length=100, default="default")

    class Meta:
        db_table = '"tasks"."types"'

    def __str__(self) -> str:
        return self.task_type


class UniqueKey(models.Model):
    """A key that an open task holds, until it ends or (`free_at_start`) starts, and in any case until `held_until`."""

    unique_key = models.CharField(max_length=255, primary_key=True)
    task = models.ForeignKey(TaskIdentity, models.DO_NOTHING, db_column="task_id", related_name="unique_keys")
    held_until = models.DateTimeField(null=True)
    free_at_start = models.BooleanField(default=False)

    class Meta:
        db_table = '"tasks"."unique_keys"'

    def __str__(self) -> str:
        return self.unique_key


class Pause(models.Model):
    """A paused task type: nothing of it is claimed while the row is here, `paused_until` at the latest (None: open)."""

    task_type = models.CharField(max_length=100, primary_key=True)
    reason = models.TextField(blank=True, default="")
    paused_by = models.CharField(max_length=150, blank=True, default="")
    paused_at = models.DateTimeField(db_default=Now(), editable=False)
    paused_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = '"tasks"."pauses"'

    def __str__(self) -> str:
        return self.task_type


class QueuePause(models.Model):
    """A paused queue: as if each of its types were paused."""

    queue = models.CharField(max_length=100, primary_key=True)
    reason = models.TextField(blank=True, default="")
    paused_by = models.CharField(max_length=150, blank=True, default="")
    paused_at = models.DateTimeField(db_default=Now(), editable=False)
    paused_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = '"tasks"."queue_pauses"'

    def __str__(self) -> str:
        return self.queue


class TaskPause(models.Model):
    """A task that is paused, `paused_until` at the latest (None: open). `stands_since`: its handler stands still; None:
    it has not come to a place for that, or the task was only waiting."""

    task = models.OneToOneField(
        TaskIdentity,
        models.DO_NOTHING,
        db_column="task_id",
        related_name="task_pause",
        primary_key=True,
    )
    reason = models.TextField(blank=True, default="")
    paused_by = models.CharField(max_length=150, blank=True, default="")
    paused_at = models.DateTimeField(db_default=Now(), editable=False)
    paused_until = models.DateTimeField(null=True, blank=True)
    resumed_at = models.DateTimeField(null=True, editable=False)
    stands_since = models.DateTimeField(null=True, editable=False)

    class Meta:
        db_table = '"tasks"."task_pauses"'

    def __str__(self) -> str:
        return str(self.task_id)


class DeadLetter(Task):
    """A failed task: its retries are spent, or it can never succeed."""

    class Meta:
        proxy = True


class Retention(models.Model):
    """How long finished tasks of a type stay, where an operator says so; None: as the handler declares. `*`: all types
    that nobody registered."""

    task_type = models.CharField(max_length=100, primary_key=True)
    keep_completed_days = models.FloatField(null=True, blank=True)
    keep_failed_days = models.FloatField(null=True, blank=True)
    keep_cancelled_days = models.FloatField(null=True, blank=True)
    declared_by = models.CharField(max_length=150, blank=True, default="", editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = '"tasks"."retention"'
        verbose_name_plural = "retention"

    def __str__(self) -> str:
        return self.task_type


class RecurringSlot(models.Model):
    """The last moment of a recurring task that was seen to. `name` is its schedule's."""

    name = models.CharField(max_length=200, primary_key=True)
    last_slot = models.DateTimeField()
    last_task_id = models.UUIDField(null=True)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = '"tasks"."recurring_slots"'

    def __str__(self) -> str:
        return self.name


class Limit(models.Model):
    """What bounds the running tasks of a scope. None: not bounded. `rate_limit` starts in any `rate_seconds`; `weight`:
    share against others. `declared_by`: handler, or the operator whose word it is."""

    class Scope(models.TextChoices):
        ALL = "all"
        QUEUE = "queue"
        TYPE = "type"
        KEY = "key"

    limit_id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    scope = models.CharField(max_length=10, choices=Scope)
    name = models.CharField(max_length=255, blank=True, default="")
    max_running = models.PositiveIntegerField(null=True, blank=True)
    max_running_per_key = models.PositiveIntegerField(null=True, blank=True)
    rate_limit = models.PositiveIntegerField(null=True, blank=True)
    rate_seconds = models.FloatField(null=True, blank=True)
    fair_keys = models.BooleanField(default=False)
    weight = models.FloatField(default=1)
    declared_by = models.CharField(max_length=150, default="handler", editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = '"tasks"."limits"'

    def __str__(self) -> str:
        return f"{self.scope} {self.name}".strip()


class ResourceHolder(models.Model):
    """A named resource that a running task holds."""

    resource = models.CharField(max_length=255, primary_key=True)
    task = models.ForeignKey(
        TaskIdentity, models.DO_NOTHING, db_column="task_id", related_name="resource_holders"
    )
    held_since = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = '"tasks"."resource_holders"'

    def __str__(self) -> str:
        return self.resource


class ResourceWaiter(models.Model):
    """A task that is parked until a resource is free."""

    task = models.OneToOneField(
        TaskIdentity,
        models.DO_NOTHING,
        db_column="task_id",
        related_name="resource_waiter",
        primary_key=True,
    )
    task_type = models.CharField(max_length=100)
    resource = models.CharField(max_length=255)
    priority = EnumField(type_name="task_priority_type", choices=TaskPriority)
    waits_since = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = '"tasks"."resource_waiters"'

    def __str__(self) -> str:
        return f"{self.task_id} waits for {self.resource}"

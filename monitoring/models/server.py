"""The views of `sql/0003_server.sql`: each query looks at the server as it is at that moment. Nothing can be saved."""

from django.db import models


class Activity(models.Model):
    """A session of a client, on any database of the server. Times in seconds; None outside a transaction."""

    pid = models.IntegerField(primary_key=True)
    application_name = models.TextField("application")
    username = models.TextField("role", null=True)
    database_name = models.TextField("database", null=True)
    client_addr = models.GenericIPAddressField("address", null=True)
    state = models.TextField()
    waits_for = models.TextField()
    backend_start = models.DateTimeField("connected")
    transaction_seconds = models.FloatField(null=True)
    state_seconds = models.FloatField(
        null=True, help_text="since its statement began, or since it has been idle"
    )
    blockers = models.IntegerField(help_text="how many sessions it waits for")
    statement = models.TextField(help_text="the present one, or the last")

    class Meta:
        managed = False
        db_table = '"monitoring"."activity"'
        verbose_name = "session"

    def __str__(self) -> str:
        return f"{self.application_name}, process {self.pid}, {self.state}"


class LockWait(models.Model):
    """A line of the tree of who waits for whom."""

    path = models.TextField(primary_key=True, help_text="the pids from the head of the tree down to this one")
    position = models.BigIntegerField()
    depth = models.IntegerField()
    pid = models.IntegerField()
    application_name = models.TextField("application")
    state = models.TextField()
    waiting_seconds = models.FloatField(null=True)
    wants = models.TextField()
    object = models.TextField()
    transaction_seconds = models.FloatField(null=True)
    blocks = models.IntegerField(help_text="how many sessions wait for it")
    statement = models.TextField()

    class Meta:
        managed = False
        db_table = '"monitoring"."lock_tree"'
        verbose_name = "lock wait"

    def __str__(self) -> str:
        return f"process {self.pid}"


class Table(models.Model):
    """A table with all its partitions: size, dead rows, estimated bloat, distance to wraparound."""

    table_id = models.BigIntegerField(primary_key=True)
    table_name = models.TextField("table")
    partitions = models.IntegerField()
    total_bytes = models.BigIntegerField()
    index_bytes = models.BigIntegerField()
    row_estimate = models.BigIntegerField()
    dead_rows = models.BigIntegerField()
    dead_ratio = models.FloatField()
    bloat_bytes = models.BigIntegerField(help_text="estimated: pages beyond those that the rows would fill")
    sequential_scans = models.BigIntegerField()
    index_scans = models.BigIntegerField()
    hot_ratio = models.FloatField(null=True, help_text="updates that touched no index")
    xid_age = models.BigIntegerField("transactions since freeze")
    vacuumed_at = models.DateTimeField(null=True)
    analyzed_at = models.DateTimeField(null=True)

    class Meta:
        managed = False
        db_table = '"monitoring"."tables"'

    def __str__(self) -> str:
        return self.table_name


class Index(models.Model):
    """An index as declared, what its partitions' indexes did added up, and what to make of it."""

    index_id = models.BigIntegerField(primary_key=True)
    schema_name = models.TextField("schema")
    table_name = models.TextField("table")
    index_name = models.TextField("index")
    index_size = models.TextField("size")
    index_scans = models.BigIntegerField("scans")
    tuples_read = models.BigIntegerField()
    tuples_fetched = models.BigIntegerField()
    usage_ratio = models.DecimalField(max_digits=8, decimal_places=2)
    recommendation = models.TextField()

    class Meta:
        managed = False
        db_table = '"monitoring"."indexes"'
        verbose_name_plural = "indexes"

    def __str__(self) -> str:
        return self.index_name


class Statement(models.Model):
    """What pg_stat_statements knows of a statement of this database, its numbers replaced by $1, $2."""

    query_id = models.BigIntegerField(primary_key=True)
    calls = models.BigIntegerField()
    total_ms = models.FloatField()
    mean_ms = models.FloatField()
    max_ms = models.FloatField()
    rows_per_call = models.FloatField()
    cache_hit_ratio = models.FloatField(null=True)
    wal_bytes = models.BigIntegerField()
    statement = models.TextField()

    class Meta:
        managed = False
        db_table = '"monitoring"."statements"'

    def __str__(self) -> str:
        return self.statement[:80]


class Replica(models.Model):
    """A standby that streams from this server."""

    pid = models.IntegerField(primary_key=True)
    application_name = models.TextField("name")
    client_addr = models.GenericIPAddressField("address", null=True)
    state = models.TextField(null=True)
    sync_state = models.TextField(null=True)
    lag_bytes = models.BigIntegerField(null=True)
    lag_seconds = models.FloatField()

    class Meta:
        managed = False
        db_table = '"monitoring"."replicas"'

    def __str__(self) -> str:
        return self.application_name


class ReplicationSlot(models.Model):
    """A promise to keep WAL for a reader."""

    slot_name = models.TextField(primary_key=True)
    slot_type = models.TextField()
    is_active = models.BooleanField()
    wal_status = models.TextField()
    retained_bytes = models.BigIntegerField()

    class Meta:
        managed = False
        db_table = '"monitoring"."replication_slots"'
        verbose_name = "replication slot"

    def __str__(self) -> str:
        return self.slot_name

"""Headers of messages that the bridge writes or understands. Agents in any language may set the last two."""

SYNC_ORIGIN = "Sync-Origin"  # pg (relay, fast path) or reconcile; absent: an agent wrote it
SYNC_ID = "Sync-Id"  # the outbox id that it was stored under
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
OPERATION = "KV-Operation"  # DEL or PURGE: the key is gone
MARKER = "Nats-Marker-Reason"  # the server's own note that a value ended
SOURCE = "Nats-Stream-Source"  # where a stream with a source has a message from
AGENT_EPOCH = (
    "Agent-Epoch"  # the writer's epoch (agents.registry.epoch); an older one than the registry's is refused
)
TRACEPARENT = "traceparent"  # W3C Trace Context: the trace in which a message was sent
TTL = "Nats-TTL"  # how long the value lives: seconds, a duration such as 1h30m, or never

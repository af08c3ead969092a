"""What other rooms may listen to."""

from django.dispatch import Signal

# Sent inside the transaction that changed them, with `task_ids`: a list of UUIDs. sender: tasks.models.Task.
# `is_work` True: a worker's own step (claimed, ended, progressed), of which there are thousands a second; or enqueued.
# `is_ready` True: one of them, or one that waited for them, may be claimed now.
# A receiver acts on commit; what it raises breaks the transaction.
tasks_changed = Signal()

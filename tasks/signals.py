"""What other rooms may listen to."""

from django.dispatch import Signal

# Sent inside the transaction that changed them, with `task_ids`: a list of UUIDs. sender: tasks.models.Task.
# A receiver acts on commit; what it raises breaks the transaction.
tasks_changed = Signal()

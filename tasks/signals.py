"""What other rooms may listen to."""

from django.dispatch import Signal

# Sent inside the transaction that changed them, with `task_ids`: a list of UUIDs. sender: tasks.models.Task.
# `is_work` True: a worker's own step (claimed, ended, progressed), of which there are thousands a second.
# What is enqueued is told of by `work_came` alone.
# A receiver acts on commit; what it raises breaks the transaction.
tasks_changed = Signal()

# Sent soon after a commit that may have made tasks ready, by the thread that sends tickets, once for all that came
# together. A receiver must be quick, and has no transaction; what it raises is logged.
work_came = Signal()

"""What this room tells others, who may answer."""

from django.dispatch import Signal

# Sent with `agent_id` before an agent's state in PostgreSQL is read or replaced as a whole. A receiver brings that
# up to date with what the agent wrote elsewhere, waiting a little, and returns a Settled (or None: nothing to say).
state_is_needed = Signal()

"""What others may listen to. `message_passed`: a message that is not logged goes by, as `messaging.send.Passing`.

Receivers run inside `send`, in the sender's transaction; their errors are logged, never raised to the sender.
"""

from django.dispatch import Signal

message_passed = Signal()

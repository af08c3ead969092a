"""Wait for what other processes do."""

import time


def eventually(look, timeout_seconds=60):
    """Look until something true is seen, and return it; fail after `timeout_seconds`."""
    deadline = time.monotonic() + timeout_seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not seen within {timeout_seconds} s"
        time.sleep(0.02)
    return seen

"""A process that only relays: `python -m bench.sync.relay_process`."""

import django

if __name__ == "__main__":
    django.setup()
    from bridge.runner import Relay

    Relay().run()

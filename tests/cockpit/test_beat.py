import signal
from contextlib import suppress

import pytest
from celery.beat import Service
from celery.signals import beat_init

from config.celery import app


@pytest.fixture
def restored_signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_beat_told_to_stop_while_it_sends_ends_its_loop(restored_signals, number):
    service = Service(app)

    class Scheduler:
        max_interval = 1
        closed = False

        def tick(self):
            with suppress(SystemExit):  # lost, as redis-py does while it closes the connection
                signal.raise_signal(number)
            return 0

        def close(self):
            self.closed = True

    service.scheduler = Scheduler()
    beat_init.send(sender=service)
    service.start()
    assert service.scheduler.closed

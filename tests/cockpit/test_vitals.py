import pytest

from cockpit import vitals
from cockpit.servers.ports import HOST, free_port


@pytest.mark.servers
def test_of_several_servers_of_nats_the_one_that_answers_is_asked(settings):
    user = settings.NATS_URL.rpartition("@")[0]
    settings.NATS_URL = f"{user}@{HOST}:{free_port()},{settings.NATS_URL}"
    assert vitals.ask_nats().has_jetstream


def test_no_password_of_several_urls_is_shown():
    shown = vitals.without_password("nats://u:secret@a:1,nats://u:secret@b:2")
    assert shown == "nats://a:1,nats://b:2"

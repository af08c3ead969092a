import pytest

from bridge.servers import connect_options, where
from pg.errors import Refused


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("nats://h:1", {"servers": ["nats://h:1"]}),
        ("h:1", {"servers": ["nats://h:1"]}),
        ("nats://u:p@h:1", {"servers": ["nats://h:1"], "user": "u", "password": "p"}),
        ("tls://u:p%40%2C@h:1", {"servers": ["tls://h:1"], "user": "u", "password": "p@,"}),
        ("nats://t0ken@h:1", {"servers": ["nats://h:1"], "token": "t0ken"}),
        (
            " nats://u:p@a:1, nats://b:2 ,nats://u:p@c:3,",
            {"servers": ["nats://a:1", "nats://b:2", "nats://c:3"], "user": "u", "password": "p"},
        ),
    ],
)
def test_the_user_of_a_url_is_an_option_that_holds_for_all_servers(url, options):
    assert connect_options(url) == options


def test_servers_with_different_users_are_refused_without_telling_their_passwords():
    with pytest.raises(Refused, match="a:1, b:2") as caught:
        connect_options("nats://u:secret@a:1,nats://v:secret@b:2")
    assert "secret" not in f"{caught.value} {caught.value.hint}"


def test_people_read_addresses_only():
    assert where("nats://u:secret@a:1,b:2") == "a:1, b:2"

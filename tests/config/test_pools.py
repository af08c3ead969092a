"""Which pool a process has, and how large its share is."""

import pytest

from config.pools import KINDS, POOLED, POOLS, make_databases, parse_size, process_kind, resized, split_urls

URL = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": "smith",
    "USER": "u",
    "PASSWORD": "p",
    "HOST": "h",
    "PORT": 1,
}


def databases(kind, **given):
    return make_databases(kind, POOLS, {"primary": [URL], **given}, 60)


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("web", "/x/.venv/bin/gunicorn config.wsgi --bind 0.0.0.0:8000 --workers 2"),
        ("web", "/x/site-packages/gunicorn/__main__.py config.wsgi --bind=127.0.0.1:8000"),
        ("web", "manage.py runserver"),
        ("worker", "/x/celery -A config worker --hostname worker@%h --queues tasks --concurrency 2"),
        ("worker", "/x/celery/__main__.py -A config worker --queues=mistersmith,tasks"),
        ("worker", "/x/celery -A config worker"),
        ("upkeep", "/x/celery -A config worker --queues mistersmith --concurrency 1"),
        ("upkeep", "/x/celery -A config worker -Q mistersmith"),
        ("beat", "/x/celery -A config beat --loglevel INFO"),
        ("bridge", "manage.py bridge run"),
        ("command", "manage.py bridge reconcile"),
        ("command", "/x/celery -A config inspect ping"),
        ("command", "/x/pytest"),
        ("command", ""),
    ],
)
def test_a_process_is_known_by_its_command_line(kind, command):
    assert process_kind(command.split()) == kind


def test_the_sizes_and_times_are_those_of_the_guide():
    told = {
        pool.name: (
            pool.maximum,
            pool.minimum,
            pool.acquire_seconds,
            pool.idle_seconds,
            pool.life_seconds,
            pool.is_checked,
        )
        for pool in POOLS.values()
    }
    assert told == {
        "primary": (20, 5, 30, 600, 3600, True),
        "replica": (15, 3, 20, 300, 1800, True),
        "background": (5, 1, 60, 1800, 7200, False),
        "analytics": (10, 2, 45, 900, 3600, True),
    }


def test_the_shares_of_all_processes_together_are_never_more_than_the_pool():
    for pool in POOLS.values():
        most, least = pool.share
        assert most * pool.processes <= pool.maximum
        assert least * pool.processes <= pool.minimum
        assert most >= 1


def test_a_process_always_gets_a_connection():
    assert resized(POOLS["primary"], "3/1", 8).share == (1, 0)


@pytest.mark.parametrize("text", ["", "20", "0/0", "5/6", "-1/0", "20/5/1", "a/b"])
def test_a_size_that_makes_no_sense_is_refused(text):
    with pytest.raises(ValueError, match=r"MAXIMUM/MINIMUM|maximum must be"):
        parse_size(text)


def test_a_size_may_have_no_minimum():
    assert parse_size("1/0") == (1, 0)
    assert parse_size(" 20/20 ") == (20, 20)


@pytest.mark.parametrize("kind", KINDS)
def test_without_more_urls_every_alias_is_on_the_one_server_and_says_so(kind):
    found = databases(kind)
    assert set(found) == {"default", "background", "analytics", "replica"}
    assert {entry["HOST"] for entry in found.values()} == {"h"}
    assert not found["default"]["IS_SHARED"]
    assert all(found[alias]["IS_SHARED"] for alias in ("background", "analytics", "replica"))


@pytest.mark.parametrize("kind", KINDS)
def test_only_processes_with_threads_or_jobs_have_pools(kind):
    for entry in databases(kind).values():
        assert ("pool" in entry["OPTIONS"]) == (kind in POOLED)
        assert (entry["CONN_MAX_AGE"] == 0) == (kind in POOLED)  # Django's pools want it so


@pytest.mark.parametrize(
    ("kind", "pool", "host"),
    [
        *[(kind, "primary", "h") for kind in ("web", "worker")],
        *[(kind, "background", "back") for kind in ("upkeep", "beat", "bridge")],
        ("command", "primary", "owner"),
    ],
)
def test_each_kind_of_process_has_its_own_server_and_pool_as_default(kind, pool, host):
    found = databases(kind, background=[{**URL, "HOST": "back"}], owner=[{**URL, "HOST": "owner"}])["default"]
    assert (found["POOL"], found["HOST"]) == (pool, host)


def test_read_only_sessions_begin_read_only_and_have_time_outs():
    for alias in ("replica", "analytics"):
        options = databases("web")[alias]["OPTIONS"]["options"]
        assert "-c default_transaction_read_only=on" in options
        assert "-c statement_timeout=" in options
    assert "read_only" not in databases("web")["default"]["OPTIONS"]["options"]


def test_a_command_has_no_time_outs_of_its_own():
    assert "options" not in databases("command")["default"]["OPTIONS"]


def test_options_of_the_url_stay():
    entry = {
        **URL,
        "OPTIONS": {"options": "-c work_mem=8MB", "application_name": "mine", "sslmode": "verify-full"},
    }
    options = make_databases("web", POOLS, {"primary": [entry]}, 60)["default"]["OPTIONS"]
    assert options["options"].startswith("-c work_mem=8MB -c statement_timeout=")
    assert (options["application_name"], options["sslmode"]) == ("mine", "verify-full")


def test_application_names_tell_processes_and_aliases_apart():
    names = {alias: entry["OPTIONS"]["application_name"] for alias, entry in databases("web").items()}
    assert names == {
        "default": "mistersmith web",
        "background": "mistersmith web background",
        "analytics": "mistersmith web analytics",
        "replica": "mistersmith web replica",
    }


def test_replicas_are_numbered_and_weighted():
    given = [{**URL, "HOST": "r1"}, {**URL, "HOST": "r2", "OPTIONS": {"weight": 3}}]
    found = databases("web", replica=given)
    assert [(found[alias]["HOST"], found[alias]["WEIGHT"]) for alias in ("replica", "replica_2")] == [
        ("r1", 1),
        ("r2", 3),
    ]
    assert not found["replica"]["IS_SHARED"]
    assert "weight" not in found["replica_2"]["OPTIONS"]


def test_urls_are_split_at_commas_before_a_scheme_only():
    text = "postgresql://u:p@a:1,b:2/x, postgresql://u:p@c/x?weight=2"
    assert split_urls(text) == ["postgresql://u:p@a:1,b:2/x", "postgresql://u:p@c/x?weight=2"]
    assert split_urls("") == []

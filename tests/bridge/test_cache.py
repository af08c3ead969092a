"""The bucket QUERY_CACHE as Django's cache. What is asked of every Django backend, and what is ours."""

import asyncio
import threading
import warnings

import pytest
from django.core.cache import CacheKeyWarning, InvalidCacheBackendError, caches
from django.core.checks import run_checks

from bridge import cache as cache_module
from bridge import connection, topology
from bridge.cache import InvalidTimeout, QueryCache
from bridge.cache_values import LONGEST_TOKEN, make_token
from bridge.kv import parse_ttl, read_entry
from pg.errors import Refused, Unreachable
from tests.bridge.conftest import wait_until

PATIENT = {"WAIT_SECONDS": 20}  # a loaded test machine


def make(**params):
    options = PATIENT | params.pop("OPTIONS", {})
    return QueryCache(params.pop("LOCATION", ""), {"TIMEOUT": 300, "OPTIONS": options, **params})


@pytest.fixture
def cache(jetstream):
    cache_module.breaker.reset()
    return make()


class Thing:
    def __init__(self, size):
        self.size = size

    def __eq__(self, other):
        return self.size == other.size

    __hash__ = None


def entry_of(cache, key):
    token = make_token(cache.make_key(key))
    return connection.call(lambda client: read_entry(client, cache.bucket, token, 5), 10)


class TestOneKey:
    def test_what_was_set_is_got_and_what_was_not_is_the_default(self, cache):
        cache.set("a", {"x": [1, None]})
        assert cache.get("a") == {"x": [1, None]}
        assert (cache.get("b"), cache.get("b", "else")) == (None, "else")

    @pytest.mark.parametrize("value", [None, "", 0, False, b"\x00\xff", 1.5, "ümläut", Thing(3), (1, {2})])
    def test_every_value_that_can_be_pickled_comes_back_as_it_was(self, cache, value):
        cache.set("a", value)
        got = cache.get("a", "missing")
        assert got == value
        assert type(got) is type(value)

    def test_a_stored_none_is_not_a_miss(self, cache):
        cache.set("a", None)
        assert cache.has_key("a")
        assert "a" in cache
        assert cache.get("a", "else") is None
        assert cache.get_many(["a", "b"]) == {"a": None}
        assert cache.add("a", 1) is False
        assert cache.get_or_set("a", 5) is None

    def test_what_is_got_is_a_copy(self, cache):
        value = [1]
        cache.set("a", value)
        value.append(2)
        cache.get("a").append(3)
        assert cache.get("a") == [1]

    def test_what_cannot_be_pickled_is_refused_and_the_old_value_stays(self, cache):
        cache.set("a", 1)
        with pytest.raises(Exception, match=r"pickle|local object"):
            cache.set("a", lambda: None)
        assert cache.get("a") == 1

    def test_add_stores_only_where_nothing_is(self, cache):
        assert cache.add("a", 1) is True
        assert cache.add("a", 2) is False
        assert cache.get("a") == 1
        cache.delete("a")
        assert cache.add("a", 3) is True
        assert cache.get("a") == 3

    def test_of_many_that_add_at_once_one_wins(self, cache):
        won = []
        start = threading.Barrier(8)

        def race(number):
            start.wait()
            if make().add("lock", number):
                won.append(number)

        threads = [threading.Thread(target=race, args=[n]) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [cache.get("lock")]

    def test_delete_tells_whether_there_was_something(self, cache):
        cache.set("a", 1)
        assert (cache.delete("a"), cache.delete("a"), cache.delete("never")) == (True, False, False)
        assert cache.get("a", "gone") == "gone"
        assert not cache.has_key("a")

    def test_numbers_go_up_and_down(self, cache):
        cache.set("n", 41)
        assert (cache.incr("n"), cache.incr("n", 10), cache.decr("n", 50), cache.get("n")) == (42, 52, 2, 2)
        with pytest.raises(ValueError, match="not found"):
            cache.incr("absent")
        with pytest.raises(ValueError, match="not found"):
            cache.decr("absent")

    def test_many_that_count_at_once_lose_nothing(self, cache):
        cache.set("n", 0)

        def count():
            for _ in range(25):
                make().incr("n")

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cache.get("n") == 100

    def test_get_or_set_calls_only_on_a_miss(self, cache):
        assert cache.get_or_set("a", lambda: "made") == "made"
        assert cache.get_or_set("a", lambda: 1 / 0) == "made"

    def test_clear_empties_everything(self, cache):
        cache.set_many({"a": 1, "b": 2})
        make(KEY_PREFIX="other").set("a", 3)
        cache.clear()
        assert cache.get_many(["a", "b"]) == {}
        assert make(KEY_PREFIX="other").get("a") is None


class TestManyKeys:
    def test_many_are_set_got_and_deleted(self, cache):
        assert cache.set_many({"a": 1, "b": None, "c": [3]}) == []
        assert cache.get_many(["a", "b", "c", "d"]) == {"a": 1, "b": None, "c": [3]}
        cache.delete_many(["a", "b", "never"])
        assert cache.get_many(["a", "b", "c"]) == {"c": [3]}

    def test_thousands_are_read_in_one_go(self, cache):
        numbers = {f"n{n}": n for n in range(2_500)}
        assert cache.set_many(numbers) == []
        assert cache.get_many(numbers) == numbers

    def test_nothing_is_nothing(self, cache):
        assert (cache.set_many({}), cache.get_many([]), cache.delete_many([])) == ([], {}, None)

    def test_those_that_do_not_fit_are_named_and_lose_their_old_value(self, cache):
        cache.set_many({"a": 1, "big": "old"})
        assert cache.set_many({"a": 2, "big": "x" * (1 << 20)}) == ["big"]
        assert cache.get_many(["a", "big"]) == {"a": 2}

    def test_a_timeout_holds_for_all(self, cache):
        cache.set_many({"a": 1, "b": 2}, timeout=60)
        assert [entry_of(cache, key).headers["Nats-TTL"] for key in "ab"] == ["60s", "60s"]
        cache.set_many({"a": 1}, timeout=0)
        assert cache.get_many(["a", "b"]) == {"b": 2}


class TestVersionsAndKeys:
    def test_versions_and_prefixes_are_apart(self, cache):
        cache.set("a", "one", version=1)
        cache.set("a", "two", version=2)
        make(KEY_PREFIX="p").set("a", "prefixed")
        assert (cache.get("a"), cache.get("a", version=2), make(VERSION=2).get("a")) == ("one", "two", "two")
        assert make(KEY_PREFIX="p").get("a") == "prefixed"

    def test_a_value_moves_to_another_version(self, cache):
        cache.set("a", 1)
        assert cache.incr_version("a") == 2
        assert (cache.get("a"), cache.get("a", version=2)) == (None, 1)
        assert cache.decr_version("a", version=2) == 1
        assert cache.get("a") == 1
        with pytest.raises(ValueError, match="not found"):
            cache.incr_version("absent")

    @pytest.mark.parametrize(
        "key", ["a b", "a..b", ".", "*", ">", "ключ", "a:b", "x" * 5_000, "", "=41", "A"]
    )
    def test_any_text_is_a_key(self, cache, key):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheKeyWarning)
            cache.set(key, 1)
            assert cache.get(key) == 1
            assert cache.get_many([key]) == {key: 1}
            assert cache.delete(key)

    def test_keys_that_memcached_would_refuse_are_warned_of(self, cache):
        with pytest.warns(CacheKeyWarning):
            cache.set("with blank", 1)

    def test_tokens_are_short_and_never_the_same(self):
        keys = [
            "",
            "a",
            "=h" + "0" * 64,
            "x" * LONGEST_TOKEN,
            "x" * (LONGEST_TOKEN + 1),
            "x" * 10_000,
            "a.b",
            "a=b",
        ]
        tokens = {make_token(key) for key in keys}
        assert len(tokens) == len(keys)
        assert max(len(token) for token in tokens) == LONGEST_TOKEN


class TestTime:
    def test_a_value_expires_by_itself(self, cache):
        cache.set("a", 1, timeout=1)
        cache.set("b", 2, timeout=60)
        assert cache.get("a") == 1
        wait_until(lambda: cache.get("a") is None)
        assert not cache.has_key("a")
        assert cache.add("a", 3) is True
        assert cache.get("b") == 2

    @pytest.mark.parametrize("timeout", [0, -1])
    def test_no_time_means_deleted(self, cache, timeout):
        cache.set("a", 1)
        cache.set("a", 2, timeout=timeout)
        assert cache.get("a") is None

    @pytest.mark.parametrize(("given", "header"), [(1, "1s"), (0.2, "1s"), (1.5, "2s"), (300, "300s")])
    def test_times_are_whole_seconds_rounded_up(self, cache, given, header):
        cache.set("a", 1, timeout=given)
        assert entry_of(cache, "a").headers["Nats-TTL"] == header

    def test_the_default_timeout_is_that_of_the_settings(self, jetstream):
        cache = make(TIMEOUT=20)
        cache.set("a", 1)
        cache.add("b", 1)
        assert [entry_of(cache, key).headers["Nats-TTL"] for key in "ab"] == ["20s", "20s"]

    @pytest.mark.parametrize("timeout", [301, None])
    @pytest.mark.parametrize("method", ["set", "add"])
    def test_longer_than_the_bucket_keeps_is_refused_and_the_old_value_stays(self, cache, method, timeout):
        cache.set("a", "old")
        with pytest.raises(InvalidTimeout, match=r"QUERY_CACHE keeps values for at most 300 seconds"):
            getattr(cache, method)("a", "new", timeout=timeout)
        assert cache.get("a") == "old"

    def test_touch_renews_and_tells_whether_there_was_something(self, cache):
        cache.set("a", 1, timeout=60)
        assert cache.touch("a", timeout=120) is True
        assert entry_of(cache, "a").headers["Nats-TTL"] == "120s"
        assert cache.get("a") == 1
        assert cache.touch("absent") is False
        assert cache.touch("a", timeout=0) is True
        assert (cache.get("a"), cache.touch("a")) == (None, False)

    def test_counting_keeps_the_time_to_live(self, cache):
        cache.set("n", 1, timeout=100)
        cache.incr("n")
        assert 0 < parse_ttl(entry_of(cache, "n").headers["Nats-TTL"]) <= 100


class TestSize:
    def test_a_value_above_the_buckets_limit_is_not_kept_nor_is_the_old_one(self, cache, caplog):
        cache.set("a", "old")
        cache.set("a", "x" * (1 << 20))
        assert cache.get("a") is None
        assert "not cached" in caplog.text

    def test_a_value_just_below_is_kept(self, cache):
        value = "x" * ((1 << 20) - 400)
        cache.set("a", value)
        assert cache.get("a") == value

    def test_the_oldest_go_when_the_bucket_is_full(self, jetstream, settings):
        settings.BRIDGE_OVERRIDES = {"QUERY_CACHE": {"max_bytes": 1 << 20}}
        cache = make()
        connection.call(lambda client: client.jetstream.update_stream(cache.bucket.config(1)))
        try:
            for number in range(30):
                cache.set(f"n{number}", "x" * (100 << 10))
            left = [n for n in range(30) if cache.has_key(f"n{n}")]
            assert 5 <= len(left) < 12
            assert left == list(range(30 - len(left), 30))
        finally:
            settings.BRIDGE_OVERRIDES = {}
            config = topology.buckets()["QUERY_CACHE"].config(1)
            connection.call(lambda client: client.jetstream.update_stream(config))


class TestTrust:
    def put(self, cache, key, data):
        subject = cache.bucket.subject(make_token(cache.make_key(key)))
        connection.call(lambda client: client.jetstream.publish(subject, data))

    def test_what_others_wrote_is_a_miss_and_never_unpickled(self, cache):
        for data in (b"", b"x", b"cos\nsystem\n(S'false'\ntR.", b"\0" * 16 + b"\x80\x05N."):
            self.put(cache, "a", data)
            assert cache.get("a", "miss") == "miss"
            assert cache.get_many(["a"]) == {}
        assert cache.add("a", 1) is True
        assert cache.get("a") == 1

    def test_a_value_moved_to_another_key_is_a_miss(self, cache):
        cache.set("a", "mine")
        self.put(cache, "b", entry_of(cache, "a").data)
        assert (cache.get("a"), cache.get("b")) == ("mine", None)

    def test_another_secret_key_reads_nothing(self, cache, settings):
        cache.set("a", 1)
        settings.SECRET_KEY = "another"
        assert cache.get("a") is None


@pytest.fixture
def away(settings):
    """No NATS, and nobody knows yet."""
    connection.close()
    settings.NATS_URL = "nats://127.0.0.1:9"
    cache_module.breaker.reset()
    yield
    connection.close()
    cache_module.breaker.reset()


class TestWithoutNats:
    def test_everything_is_a_miss_and_nothing_raises(self, away):
        cache = make(OPTIONS={"WAIT_SECONDS": 0.1})
        cache.set("a", 1)
        assert (cache.get("a", "else"), cache.has_key("a"), cache.add("a", 1), cache.touch("a")) == (
            "else",
            False,
            False,
            False,
        )
        assert (cache.delete("a"), cache.get_many(["a"]), cache.set_many({"a": 1})) == (False, {}, ["a"])
        assert cache.get_or_set("a", lambda: 5) == 5
        cache.delete_many(["a"])
        cache.clear()
        with pytest.raises(ValueError, match="not found"):
            cache.incr("a")

    def test_only_the_first_waits(self, away, monkeypatch):
        calls = []
        real = cache_module.call
        monkeypatch.setattr(cache_module, "call", lambda *args: calls.append(1) or real(*args))
        cache = make(OPTIONS={"WAIT_SECONDS": 0.05})
        for _ in range(50):
            cache.get("a")
        assert len(calls) == 1

    def test_errors_are_raised_for_those_who_want_them(self, away):
        cache = make(OPTIONS={"WAIT_SECONDS": 0.05, "RAISE_ERRORS": True})
        for call in (lambda: cache.get("a"), lambda: cache.set("a", 1), lambda: cache.get_many(["a"])):
            with pytest.raises(Unreachable):
                call()

    def test_a_value_that_is_too_large_is_an_error_for_those_who_want_one(self, jetstream):
        with pytest.raises(Refused, match="takes 1048576"):
            make(OPTIONS={"RAISE_ERRORS": True}).set("a", "x" * (1 << 20))

    @pytest.mark.parametrize("first", ["get", "set", "set_many", "add", "incr"])
    def test_a_bucket_that_is_gone_is_made_anew(self, jetstream, first):
        connection.call(lambda client: client.jetstream.delete_stream("KV_QUERY_CACHE"))
        cache_module.breaker.reset()
        cache = make()
        calls = {
            "get": lambda: cache.get("a"),
            "set": lambda: cache.set("b", 1),
            "set_many": lambda: cache.set_many({"b": 1}),
            "add": lambda: cache.add("b", 1),
            "incr": lambda: cache.get_or_set("b", 1) and cache.incr("b", 0),
        }
        calls[first]()
        cache.set("a", 2)
        assert cache.get("a") == 2
        assert cache.get("b") == (None if first == "get" else 1)

    def test_it_works_again_after_a_restart_of_the_server(self, own_jetstream):
        cache_module.breaker.reset()
        cache = make()
        cache.set("a", 1)
        own_jetstream.kill()
        wait_until(lambda: not connection.link().is_connected())
        assert cache.get("a", "away") == "away"
        own_jetstream.start()
        wait_until(connection.link().is_connected)
        cache_module.breaker.reset()
        cache.set("a", 2)
        assert cache.get("a") == 2


def test_the_async_methods_do_the_same(cache):
    async def story():
        await cache.aset("a", 1)
        assert await cache.aget("a") == 1
        assert await cache.aincr("a") == 2
        assert await cache.aadd("a", 1) is False
        assert await cache.ahas_key("a")
        assert await cache.aset_many({"b": 2}) == []
        assert await cache.aget_many(["a", "b"]) == {"a": 2, "b": 2}
        assert await cache.atouch("a", 10)
        assert await cache.aget_or_set("c", 3) == 3
        assert await cache.adelete("a")
        await cache.adelete_many(["b"])
        await cache.aclear()
        assert await cache.aget("c") is None

    asyncio.run(story())


class TestSettings:
    BACKEND = "bridge.cache.QueryCache"

    def found(self, settings, **entry):
        settings.CACHES = {"default": {"BACKEND": self.BACKEND, **entry}}
        return {message.id: message for message in run_checks(tags=["caches"])}

    def test_it_is_the_default_cache(self):
        assert isinstance(caches["default"], QueryCache)
        assert not [message for message in run_checks(tags=["caches"]) if message.id.startswith("bridge")]

    @pytest.mark.parametrize(
        ("timeout", "ids"), [(300, set()), (301, {"bridge.E001"}), (None, {"bridge.E001"})]
    )
    def test_a_timeout_above_the_buckets_age_is_an_error(self, settings, timeout, ids):
        found = self.found(settings, TIMEOUT=timeout)
        assert found.keys() == ids
        assert all("BRIDGE_OVERRIDES" in message.hint for message in found.values())

    def test_a_bucket_that_keeps_longer_allows_more(self, settings):
        settings.BRIDGE_OVERRIDES = {"QUERY_CACHE": {"ttl_seconds": 600}}
        assert self.found(settings, TIMEOUT=600) == {}

    def test_an_unknown_bucket_is_an_error(self, settings):
        with pytest.raises(InvalidCacheBackendError, match="NOT_THERE"):
            self.found(settings, LOCATION="NOT_THERE")

    def test_options_without_effect_are_warned_of(self, settings):
        assert self.found(settings, OPTIONS={"MAX_ENTRIES": 10}).keys() == {"bridge.W001"}

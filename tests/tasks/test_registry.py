import pytest

from pg.errors import Refused
from tasks.policy import PermanentFailure, Policy, Retry
from tasks.registry import UnknownTaskType, get_handler, handler


def test_a_type_without_handler_is_named_with_what_to_do():
    with pytest.raises(UnknownTaskType, match="nobody") as caught:
        get_handler("nobody")
    assert "MISTERSMITH_APPS" in caught.value.hint


def test_two_functions_cannot_have_one_type(handles):
    handles("mine", lambda context: 1)

    def another(context):
        return 2

    with pytest.raises(Refused, match="two handlers"):
        handler("mine")(another)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_retries": -1}, "max_retries=-1"),
        ({"retry_delay_seconds": -0.1}, "retry_delay_seconds=-0.1"),
        ({"timeout_seconds": 0}, "timeout_seconds=0"),
        ({"priority": "asap"}, "priority='asap'"),
        ({"retry_factor": 0.9}, "retry_factor=0.9"),
        ({"retry_rules": {"ValueError": None}}, "must name exception classes"),
        ({"retry_rules": {ValueError: 3}}, "must be a Retry or None"),
    ],
)
def test_bad_options_are_refused_by_name(options, words):
    with pytest.raises(Refused, match=words):
        handler("mine", **options)


@pytest.mark.parametrize("task_type", ["", "x" * 101])
def test_a_type_has_1_to_100_characters(task_type):
    with pytest.raises(Refused, match="1 to 100"):
        handler(task_type)


def test_delays_double_up_to_the_cap_with_full_jitter():
    policy = Policy(retry_delay_seconds=2, max_retry_delay_seconds=10)
    for retry_count, longest in ((0, 2), (1, 4), (2, 8), (3, 10), (1000, 10)):
        delays = [policy.delay_seconds(retry_count) for _ in range(200)]
        assert 0 <= min(delays) < longest / 4
        assert longest * 3 / 4 < max(delays) <= longest


def test_echo_comes_with_mister_smith():
    assert get_handler("echo").policy == Policy()


def test_without_jitter_delays_are_exact_and_capped():
    retry = Retry(delay_seconds=1, max_delay_seconds=50, factor=3, jitter=False)
    assert [retry.seconds(number) for number in (0, 1, 2, 3, 4, 10_000)] == [1, 3, 9, 27, 50, 50]
    assert Retry(delay_seconds=0).seconds(5) == 0


def test_the_nearest_class_of_an_exception_has_its_rule():
    slow = Retry(delay_seconds=60)
    policy = Policy(retry_rules={OSError: slow, FileNotFoundError: None})
    assert policy.rule_for(FileNotFoundError()) is None
    assert policy.rule_for(ConnectionError()) is slow
    assert policy.rule_for(ValueError()) == policy.retry
    assert policy.rule_for(PermanentFailure("no")) is None


def test_rules_are_kept_for_people_by_name():
    options = Policy(retry_rules={OSError: Retry(max_retries=1), ValueError: None}).options()
    assert options["retry_rules"]["ValueError"] is None
    assert options["retry_rules"]["OSError"]["max_retries"] == 1

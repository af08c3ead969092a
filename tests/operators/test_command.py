import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError

from operators.command import Answer, OperatorCommand, table
from pg.errors import Refused


class Example(OperatorCommand):
    def add_verbs(self) -> None:
        self.add_verb("rows", lambda **_: Answer(items=[{"name": "a", "size": 1}], counts={"rows": 1}), "")
        self.add_verb("plan", lambda **_: Answer(steps=[]), "")
        self.add_verb("wrong", lambda **_: Answer(ok=False, warnings=["look here"]), "")
        self.add_verb("refuse", refuse, "")
        self.add_verb("outage", outage, "")


def refuse(**_: object) -> Answer:
    raise Refused("no", "do this instead")


def outage(**_: object) -> Answer:
    raise OperationalError("connection refused")


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(Example(), *arguments, stdout=out)
    return out.getvalue()


def test_json_is_one_object_with_the_promised_keys():
    body = json.loads(run("rows", "--json"))
    assert body.keys() == {"ok", "command", "items", "counts", "warnings"}
    assert (body["ok"], body["items"]) == (True, [{"name": "a", "size": 1}])


def test_json_may_stand_before_the_verb_too():
    assert json.loads(run("--json", "plan"))["steps"] == []


def test_an_empty_plan_says_so():
    assert run("plan") == "nothing to do\n"


def test_finding_something_wrong_is_exit_code_1():
    with pytest.raises(SystemExit) as caught:
        run("wrong")
    assert caught.value.code == 1


@pytest.mark.parametrize(("verb", "hint"), [("refuse", "do this instead"), ("outage", "make up")])
def test_errors_are_exit_code_2_with_a_hint(verb, hint):
    with pytest.raises(CommandError, match=f"HINT: .*{hint}") as caught:
        run(verb)
    assert caught.value.returncode == 2


def test_columns_are_aligned_and_none_is_empty():
    assert table([{"a": "xx", "b": 1}, {"a": None, "b": 2}]) == ["a   b", "xx  1", "    2"]

import json

import pytest

from agents.registry import register_agent
from knowledge.errors import BadInput
from knowledge.facts import facts_of
from knowledge.ingest import ingest_lines
from knowledge.models import Fact

pytestmark = pytest.mark.django_db


def line(**changes):
    return json.dumps({"entity_type": "t", "entity_id": "e", "predicate": "p", "value": 1, **changes})


def lines(number):
    return [line(entity_id=f"e{n}") for n in range(number)]


def test_lines_become_facts_and_may_come_again():
    done = ingest_lines([*lines(5), "", "   \n"], batch_lines=2)
    assert (done.lines, done.added, done.unchanged) == (5, 5, 0)
    again = ingest_lines(lines(5))
    assert (again.added, again.unchanged) == (0, 5)


def test_every_field_is_read():
    agent = register_agent("reader", "r")
    ingest_lines(
        [
            line(
                value={"a": [1]},
                object_type="odd",
                many=True,
                confidence=0.25,
                evidence={"page": 3},
                valid_from="2026-03-01T12:00:00+02:00",
                source_agent_id=str(agent.pk),
            )
        ]
    )
    (fact,) = facts_of("e")
    assert (fact.object_value, fact.object_type, fact.is_multivalued) == ({"a": [1]}, "odd", True)
    assert (float(fact.confidence_score), fact.evidence, fact.source_agent_id) == (
        0.25,
        {"page": 3},
        agent.pk,
    )
    assert fact.valid_from.isoformat() == "2026-03-01T10:00:00+00:00"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "line 3: not JSON: .* at column"),
        ("[]", "line 3: a list, must be a JSON object"),
        ("7", "line 3: a int, must be a JSON object"),
        ('{"entity_type": "t"}', "line 3: lacks entity_id, predicate, value"),
        (line(colour=1, age=2), "line 3: has unknown age, colour"),
        (line(predicate=""), "line 3: predicate='': must have 1 to 255"),
        (line(value=None), "line 3: value: must not be null"),
        (line(many="yes"), "line 3: many='yes': must be true or false"),
        (line(confidence="high"), "line 3: confidence='high'"),
        (line(valid_from="soon"), "line 3: Invalid isoformat string: 'soon'"),
        (line(valid_from="2026-03-01T12:00:00"), "line 3: .*has no time zone"),
        (line(valid_from=7), "line 3: valid_from=7"),
        (line(source_agent_id="me"), "line 3: badly formed"),
        ("[" * 100_000, "line 3: "),
    ],
)
def test_a_bad_line_is_named_and_its_batch_is_not_stored(bad, message):
    with pytest.raises(BadInput, match=message) as caught:
        ingest_lines([*lines(2), bad, *lines(1)], batch_lines=2)
    assert "lines 1 to 2 are stored" in caught.value.hint
    assert Fact.objects.count() == 2


def test_a_bad_line_of_the_first_batch_leaves_nothing():
    with pytest.raises(BadInput) as caught:
        ingest_lines([*lines(2), "{"])
    assert "nothing is stored" in caught.value.hint
    assert not Fact.objects.exists()


def test_what_only_the_database_knows_names_the_lines_of_the_batch():
    stranger = "01a2070b-c404-7daf-9e6b-41580f8856cb"
    with pytest.raises(BadInput, match="lines 3 to 4: source agent"):
        ingest_lines([*lines(3), line(source_agent_id=stranger)], batch_lines=2)
    assert Fact.objects.count() == 2


@pytest.mark.parametrize("batch_lines", [0, 10_001])
def test_the_batch_has_bounds(batch_lines):
    with pytest.raises(BadInput, match="must be 1 to"):
        ingest_lines(lines(1), batch_lines)

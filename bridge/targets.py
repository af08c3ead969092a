"""Where each bucket that agents write ends in PostgreSQL: the parameters of its queries in sql/queries.sql."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.mirrors import MIRRORS, Mirror
from pg import arrays
from pg.queries import Queries

QUERIES = Queries("bridge")
Identity = tuple[str, ...]

# What each parameter that is a list becomes for `execute_bound`.
ARRAYS: Mapping[str, Callable[[Sequence[Any]], arrays.Array]] = {
    "agent_ids": arrays.uuids,
    "session_ids": arrays.uuids,
    "state_keys": arrays.texts,
    "keys": arrays.texts,
    "values": arrays.texts,
    "revisions": arrays.numbers,
    "are_own": arrays.booleans,
    "agent_epochs": arrays.numbers,
    "expire_ats": arrays.times,
    "stored_ats": arrays.times,
}


def to_arrays(parameters: Mapping[str, object]) -> dict[str, object]:
    """Return parameters with each list as an array in binary."""
    return {
        name: ARRAYS[name](value) if isinstance(value, list) else value for name, value in parameters.items()
    }


@dataclass(frozen=True)
class Target:
    """`identities` turns the identities of keys into parameters; `name` is the end of its queries' names;
    `keeps_unknown`: a write without an agent or
    session to belong to is set apart; else it is dropped."""

    bucket: str
    name: str
    mirror: Mirror
    identities: Callable[[Sequence[Identity]], Mapping[str, Any]]
    keeps_unknown: bool = True

    def parse(self, key: str) -> Identity | None:
        """Return what `key` names; None when no row could have it."""
        return self.mirror.parse(key)

    def query(self, what: str) -> str:
        """Return the SQL that will `lock`, `flush`, `fence`, `end` or `settle` keys of this bucket."""
        return QUERIES.text(f"{what}_{self.name}")


def state_identities(identities: Sequence[Identity]) -> Mapping[str, Any]:
    return {
        "agent_ids": [agent_id for agent_id, _ in identities],
        "state_keys": [state_key for _, state_key in identities],
    }


def session_identities(identities: Sequence[Identity]) -> Mapping[str, Any]:
    return {"session_ids": [session_id for (session_id,) in identities]}


def mirror_of(bucket: str) -> Mirror:
    return next(mirror for mirror in MIRRORS if mirror.bucket == bucket)


TARGETS = {
    "AGENT_STATE": Target("AGENT_STATE", "agent_state", mirror_of("AGENT_STATE"), state_identities),
    "SESSION_DATA": Target(
        "SESSION_DATA", "session_data", mirror_of("SESSION_DATA"), session_identities, keeps_unknown=False
    ),
}

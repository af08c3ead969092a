"""Atomic batches: messages of one stream that nats-server stores together, with one sync and one answer (ADR-50).

All of a batch is stored or nothing, each message by its own compare-and-set, under sequences that follow each other.
A server alone lays a batch down in files of its own before it stores it: some six syncs, however large it is, where
single messages cost one each (docs/decisions/0023). So a few go alone.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from nats.aio.client import Client

SINCE = (2, 15)  # from here on nats-server syncs a batch once; before, each message of it
LEAST, MOST = 16, 128  # messages in a batch: with fewer nothing is saved; others wait while one is stored
MOST_EVENTS = 256  # in one of an event stream, where nobody waits for a message of his own
MOST_BYTES = 1 << 20  # of values: nats-server keeps them twice until the last is there

BATCH_ID, SEQUENCE, COMMIT = "Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"


class Addressed(Protocol):
    """What is looked at of a message. `stream` empty: it goes alone."""

    @property
    def stream(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def data(self) -> bytes: ...


def are_known(nc: Client) -> bool:
    """Tell whether the server that is connected takes batches as this module means them."""
    version = nc.connected_server_version
    return (version.major, version.minor) >= SINCE


def cut(messages: Sequence[Addressed]) -> list[list[Sequence[int]]]:
    """Return, for each stream, its batches one after the other, as places in `messages`; what is in none goes alone.

    Order is kept: once a batch would be too small, it and all that follows it in its stream go alone.
    """
    lanes: dict[str, list[int]] = {}
    for place, message in enumerate(messages):
        lanes.setdefault(message.stream, []).append(place)
    lanes.pop("", None)
    return [batches for places in lanes.values() if (batches := cut_lane(messages, places))]


def cut_lane(messages: Sequence[Addressed], places: Sequence[int]) -> list[Sequence[int]]:
    batches: list[Sequence[int]] = []
    first = 0
    while len(places) - first >= LEAST:
        end = find_end(messages, places, first)
        if end - first < LEAST:
            break
        batches.append(places[first:end])
        first = end
    return batches


def find_end(messages: Sequence[Addressed], places: Sequence[int], first: int) -> int:
    """Return where a batch that begins at `first` ends: it is full, or what comes next has a subject that it has
    already. A second message of a subject cannot be compared with the first, whose sequence nobody knows yet."""
    subjects: set[str] = set()
    room = MOST_BYTES
    end = min(
        len(places), first + (MOST if messages[places[first]].stream.startswith("KV_") else MOST_EVENTS)
    )
    for index in range(first, end):
        message = messages[places[index]]
        room -= len(message.data)
        if message.subject in subjects or room < 0:
            return index
        subjects.add(message.subject)
    return end


def with_batch(headers: Mapping[str, str], batch_id: str, number: int, is_last: bool) -> dict[str, str]:
    """Return the headers of the message `number` (from 1) of a batch; the last one commits it."""
    marks = {BATCH_ID: batch_id, SEQUENCE: str(number)}
    return {**headers, **marks, COMMIT: "1"} if is_last else {**headers, **marks}


def command(subject: str, reply: str, headers: Mapping[str, str], data: bytes) -> bytes:
    """Return the command HPUB of NATS's protocol. A line break in a header becomes a blank, as nats-py has it."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        return command(subject, reply, {name: " ".join(text.split()) for name, text in headers.items()}, data)
    head = f"NATS/1.0\r\n{lines}\r\n".encode()
    sizes = f"{len(head)} {len(head) + len(data)}"
    return f"HPUB {subject} {reply} {sizes}\r\n".encode() + head + data + b"\r\n"

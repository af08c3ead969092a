"""Against a real HTTP server on loopback that speaks OpenAI's form of embeddings, and misbehaves on demand."""

import json
import math
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from knowledge.errors import BadVector, ProviderFailed, ProviderUnavailable, TextRefused
from knowledge.providers import openai
from knowledge.providers.openai import MAX_PAUSE_SECONDS, OpenAIProvider, pause_seconds

KEY = "sk-very-secret"


class Endpoint(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers.get("Authorization"), body))
        answers = self.server.answers
        (answers.pop(0) if answers else vectors())(self, body)

    def log_message(self, *arguments):
        pass


def vectors(dimensions=3, change=None):
    """Answer with a vector per text, the last text's first: only the index tells whose it is."""

    def answer(handler, body):
        rows = [
            {"index": number, "embedding": [float(len(text))] + [1.0] * (dimensions - 1)}
            for number, text in enumerate(body["input"])
        ]
        send(handler, 200, json.dumps({"data": change(rows) if change else rows[::-1]}))

    return answer


def status(code, text="", **headers):
    return lambda handler, body: send(handler, code, text, headers)


def send(handler, code, text, headers=None):
    handler.send_response(code)
    for name, value in (headers or {}).items():
        handler.send_header(name.replace("_", "-"), value)
    content = text.encode()
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


@pytest.fixture
def endpoint(settings, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.requests, server.answers, server.released = [], [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    settings.EMBEDDINGS_URL = f"http://127.0.0.1:{server.server_port}/v1/"
    settings.EMBEDDINGS_API_KEY = KEY
    settings.EMBEDDINGS_ATTEMPTS = 3
    settings.EMBEDDINGS_TIMEOUT_SECONDS = 5
    server.pauses = []
    monkeypatch.setattr(openai.time, "sleep", server.pauses.append)
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def remote():
    return OpenAIProvider("some-model", 3)


def test_the_request_has_openais_form(endpoint, remote):
    remote.embed(["one", "three"])
    ((path, authorization, body),) = endpoint.requests
    assert (path, authorization) == ("/v1/embeddings", f"Bearer {KEY}")
    assert body == {"model": "some-model", "input": ["one", "three"], "encoding_format": "float"}


def test_vectors_are_sorted_by_their_index_and_get_length_one(endpoint, remote):
    first, second = remote.embed(["one", "three"])
    assert first[0] / first[1] == pytest.approx(3)
    assert second[0] / second[1] == pytest.approx(5)
    assert math.hypot(*first) == pytest.approx(1)


def test_many_texts_are_asked_for_in_batches(endpoint, remote):
    assert len(remote.embed([str(number) for number in range(130)])) == 130
    assert [len(body["input"]) for _, _, body in endpoint.requests] == [64, 64, 2]


def test_a_server_without_a_key_gets_none(endpoint, remote, settings):
    settings.EMBEDDINGS_API_KEY = ""
    remote.embed(["one"])
    assert endpoint.requests[0][1] is None


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503])
def test_what_passes_is_asked_again(endpoint, remote, code):
    endpoint.answers = [status(code), status(code)]
    assert len(remote.embed(["one"])) == 1
    assert len(endpoint.requests) == 3
    assert len(endpoint.pauses) == 2


@pytest.mark.parametrize("code", [429, 500])
def test_after_the_last_attempt_it_fails_and_may_be_tried_later(endpoint, remote, code):
    endpoint.answers = [status(code, "busy")] * 3
    with pytest.raises(ProviderFailed, match=f"HTTP {code} busy") as caught:
        remote.embed(["one"])
    assert caught.value.retry
    assert len(endpoint.requests) == 3


def test_the_server_may_say_how_long_to_wait(endpoint, remote):
    endpoint.answers = [
        status(429, Retry_After="7"),
        status(429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"),
    ]
    remote.embed(["one"])
    assert endpoint.pauses[0] == 7
    assert endpoint.pauses[1] != 7


def test_pauses_grow_and_have_a_bound():
    assert 0.25 <= pause_seconds(0, None) <= 0.75
    assert pause_seconds(3, None) > pause_seconds(0, None)
    assert pause_seconds(50, None) == pause_seconds(0, 3600) == MAX_PAUSE_SECONDS


@pytest.mark.parametrize("code", [401, 403, 404])
def test_what_needs_a_correction_is_not_asked_again(endpoint, remote, code):
    endpoint.answers = [status(code, "no")]
    with pytest.raises(ProviderUnavailable, match=f"HTTP {code} no"):
        remote.embed(["one"])
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_refused_text_is_told_from_a_broken_server(endpoint, remote, code):
    endpoint.answers = [status(code, "too long")]
    with pytest.raises(TextRefused, match="too long"):
        remote.embed(["one"])
    assert len(endpoint.requests) == 1


def test_a_server_that_does_not_answer_in_time_is_asked_again(endpoint, remote, settings, monkeypatch):
    monkeypatch.setattr(settings, "EMBEDDINGS_TIMEOUT_SECONDS", 0.1)
    endpoint.answers = [lambda handler, body: endpoint.released.wait(10)] * 3
    with pytest.raises(ProviderFailed, match="timed out"):
        remote.embed(["one"])
    assert len(endpoint.pauses) == 2


def test_nobody_listens(endpoint, remote, settings):
    with free_port() as port:
        settings.EMBEDDINGS_URL = f"http://127.0.0.1:{port}/v1"
        with pytest.raises(ProviderFailed, match="Connection refused") as caught:
            remote.embed(["one"])
    assert "EMBEDDINGS_URL" in caught.value.hint


@contextmanager
def free_port():
    """A port that is taken but does not listen: connections to it are refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (vectors(dimensions=4), "4 dimensions, must have 3"),
        (vectors(change=lambda rows: rows[:1]), "cannot be read: KeyError"),
        (status(200, "<html>"), "cannot be read: JSONDecodeError"),
        (status(200, "[]"), "cannot be read"),
        (vectors(change=lambda rows: [{**row, "embedding": [0, 0, 0]} for row in rows]), "length 0"),
        (vectors(change=lambda rows: [{**row, "embedding": [1, 2, math.nan]} for row in rows]), "length nan"),
        (vectors(change=lambda rows: [{**row, "embedding": [1, 2, math.inf]} for row in rows]), "length inf"),
        (vectors(change=lambda rows: [{**row, "embedding": "abc"} for row in rows]), "cannot be read"),
    ],
)
def test_an_answer_that_is_no_vector_of_the_model_is_refused(endpoint, remote, answer, message):
    endpoint.answers = [answer]
    with pytest.raises(BadVector, match=message):
        remote.embed(["one", "two"])


def test_redirects_are_not_followed(endpoint, remote):
    endpoint.answers = [status(302, Location=f"http://127.0.0.1:{endpoint.server_port}/elsewhere")]
    with pytest.raises(ProviderUnavailable, match="HTTP 302"):
        remote.embed(["one"])
    assert len(endpoint.requests) == 1


def test_the_key_is_in_no_message(endpoint, remote):
    endpoint.answers = [status(401, "no")]
    with pytest.raises(ProviderUnavailable) as caught:
        remote.embed(["one"])
    assert KEY not in f"{caught.value} {caught.value.hint} {caught.value.__cause__!r}"


def test_without_a_key_openai_itself_is_never_asked(settings, remote):
    settings.EMBEDDINGS_URL, settings.EMBEDDINGS_API_KEY = "https://api.openai.com/v1", ""
    with pytest.raises(ProviderUnavailable, match="EMBEDDINGS_API_KEY is not set"):
        remote.embed(["one"])


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x", "nothing"])
def test_only_http_is_spoken(settings, remote, url):
    settings.EMBEDDINGS_URL = url
    with pytest.raises(ProviderUnavailable, match="not an http or https address"):
        remote.embed(["one"])

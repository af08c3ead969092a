"""Vectors over HTTP, in the form that OpenAI began: POST <base>/embeddings. vLLM, Ollama, TEI, llama.cpp speak it too.

`EMBEDDINGS_URL`, `EMBEDDINGS_API_KEY` (or `OPENAI_API_KEY`), `EMBEDDINGS_TIMEOUT_SECONDS` and `EMBEDDINGS_ATTEMPTS` are
settings. The key goes into the header of the request and nowhere else.
"""

import json
import random
import time
from collections.abc import Sequence
from email.message import Message
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from django.conf import settings

from knowledge.errors import BadVector, KnowledgeError, ProviderFailed, ProviderUnavailable, TextRefused
from knowledge.providers.base import Provider, Vector

OFFICIAL_HOST = "api.openai.com"
FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 30.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
SHOWN_CHARACTERS = 200


class OpenAIProvider(Provider):
    batch_texts = 64

    def check(self) -> None:
        """Only the settings are looked at; whether the server answers shows when it is asked."""
        if urlsplit(settings.EMBEDDINGS_URL).scheme not in ("http", "https"):
            raise ProviderUnavailable(
                f"EMBEDDINGS_URL={settings.EMBEDDINGS_URL!r}: not an http or https address",
                "set it to the address before /embeddings, for instance http://127.0.0.1:11434/v1",
            )
        if urlsplit(settings.EMBEDDINGS_URL).hostname == OFFICIAL_HOST and not settings.EMBEDDINGS_API_KEY:
            raise ProviderUnavailable(
                f"{self.model_name}: EMBEDDINGS_API_KEY is not set",
                "set it in the environment, or EMBEDDINGS_URL to a server that needs none",
            )

    def compute(self, texts: Sequence[str]) -> list[Vector]:
        self.check()
        batches = range(0, len(texts), self.batch_texts)
        return [
            vector
            for begin in batches
            for vector in self._ask_patiently(texts[begin : begin + self.batch_texts])
        ]

    def _ask_patiently(self, texts: Sequence[str]) -> list[Vector]:
        """Ask again, after a longer and longer pause, what may go through later."""
        for attempt in range(settings.EMBEDDINGS_ATTEMPTS):
            try:
                return read_answer(self._ask(texts), len(texts))
            except ProviderFailed as error:
                if attempt + 1 == settings.EMBEDDINGS_ATTEMPTS:
                    raise
                time.sleep(pause_seconds(attempt, error.after_seconds))
        raise AssertionError("unreachable")

    def _ask(self, texts: Sequence[str]) -> bytes:
        url = settings.EMBEDDINGS_URL.rstrip("/") + "/embeddings"
        body = json.dumps({"model": self.model_name, "input": list(texts), "encoding_format": "float"})
        request = Request(url, body.encode(), {"Content-Type": "application/json"})  # noqa: S310  checked
        if settings.EMBEDDINGS_API_KEY:
            request.add_unredirected_header("Authorization", f"Bearer {settings.EMBEDDINGS_API_KEY}")
        try:
            with OPENER.open(request, timeout=settings.EMBEDDINGS_TIMEOUT_SECONDS) as answer:
                content: bytes = answer.read(MAX_ANSWER_BYTES + 1)
                return content
        except HTTPError as error:
            raise refusal(url, error) from error
        except (URLError, HTTPException, OSError) as error:  # a timeout while reading is an OSError
            reason = getattr(error, "reason", error)
            raise ProviderFailed(
                f"{url}: {reason or type(error).__name__}", "is the server up, is EMBEDDINGS_URL right?"
            ) from error


class NoRedirects(HTTPRedirectHandler):
    """A redirect would turn the request into a GET, and might carry texts to a stranger."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


OPENER = build_opener(NoRedirects)


def refusal(url: str, error: HTTPError) -> KnowledgeError:
    """Return what an HTTP status means: 408, 409, 429 and 5xx pass; 400, 413 and 422 are about the texts; the others
    need a correction."""
    said = error.read(2_000).decode("utf-8", "replace")
    message = f"{url}: HTTP {error.code} {' '.join(said.split())[:SHOWN_CHARACTERS]}".strip()
    if error.code in (408, 409, 429) or error.code >= 500:
        return ProviderFailed(message, "try again later", after_seconds=wanted_pause(error.headers))
    if error.code in (400, 413, 422):
        return TextRefused(message, "look at the model's name and at the texts")
    return ProviderUnavailable(message, "look at EMBEDDINGS_URL, EMBEDDINGS_API_KEY and the model's name")


def wanted_pause(headers: Message) -> float | None:
    """Return Retry-After in seconds; None where it is missing or a date."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None


def pause_seconds(attempt: int, wanted_seconds: float | None) -> float:
    """Return what the server asked for, else twice as long each time, with jitter; at most MAX_PAUSE_SECONDS."""
    backoff = FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311  jitter, not a secret
    return min(MAX_PAUSE_SECONDS, backoff if wanted_seconds is None else wanted_seconds)


def read_answer(content: bytes, wanted: int) -> list[Vector]:
    """Return the vectors in the order of the texts: servers may send them in another, with their index."""
    try:
        if len(content) > MAX_ANSWER_BYTES:
            raise ValueError(f"longer than {MAX_ANSWER_BYTES} bytes")
        rows = {int(row["index"]): row["embedding"] for row in json.loads(content)["data"]}
        return [[float(value) for value in rows[number]] for number in range(wanted)]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BadVector(
            f"the server's answer cannot be read: {type(error).__name__}: {error}",
            "EMBEDDINGS_URL must speak OpenAI's form of embeddings",
        ) from error

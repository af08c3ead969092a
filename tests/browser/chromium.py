"""Debian's Chromium, and pages that notice what goes wrong on them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
WINDOW = {"width": 1440, "height": 900}
INLINE = ("data:", "blob:")
GRAVE = ("serious", "critical")


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def browsing(program: str) -> Iterator[Browser]:
    """Start Chromium. While it runs Playwright keeps an event loop in this thread: Django must not mind."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*ARGUMENTS, *sandbox])
        try:
            yield browser
        finally:
            browser.close()


class Watch:
    """Notes what a page must not do: errors in the console or of scripts, answers from 400 on, other hosts.

    What the test expects goes into `expected`: a text, parts of which match.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.url, self.faults, self.expected = url, list[str](), list[str]()
        page.on("request", self.note_request)
        page.on("response", self.note_response)
        page.on("console", self.note_console)
        page.on("pageerror", lambda error: self.faults.append(f"script error: {error}"))
        page.on("crash", lambda _: self.faults.append("the page crashed"))

    def note_request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.url}/", *INLINE)):
            self.faults.append(f"asked another host: {request.url}")

    def note_response(self, response: Response) -> None:
        if response.status >= 400:
            self.faults.append(f"{response.status} of {response.url}")

    def note_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.faults.append(f"console: {message.text}")

    def take_faults(self) -> list[str]:
        """Return what was not expected, and begin anew."""
        faults = [fault for fault in self.faults if not any(text in fault for text in self.expected)]
        self.faults, self.expected = [], []
        return faults


def grave_violations(page: Page) -> list[str]:
    """Return what axe finds serious or critical (WCAG A and AA), with the elements that it is about."""
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}
    found: list[dict[str, Any]] = Axe().run(page, options=options).response["violations"]
    return [
        f"{rule['id']}: {rule['help']}: " + "; ".join(node["html"][:160] for node in rule["nodes"][:3])
        for rule in found
        if rule["impact"] in GRAVE
    ]

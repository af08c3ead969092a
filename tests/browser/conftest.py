"""Fixtures for tests in a browser. How to write one: docs/admin.md, "Tests in the browser".

Each worker process of the test run has one web process with one database, filled once with a small fleet (fleet.py).
In these tests the ORM writes to that database, and commits: tests add rows of their own and leave the others alone.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from playwright.sync_api import Browser, Page

from tests.browser.chromium import WINDOW, Watch, browsing, find_chromium
from tests.browser.fleet import Fleet, make_fleet
from tests.browser.web import Web, serving
from tests.conftest import WORKER, use_database
from tests.databases import Clones

TIMEOUT_MS = 20_000


@pytest.fixture(scope="session")
def chromium() -> str:
    program = find_chromium()
    if program is None:
        pytest.skip("chromium is missing: make system-deps")
    return program


@pytest.fixture(scope="session")
def web(chromium: str, django_db_setup: None, clones: Clones, make_home: Callable[[], Path]) -> Iterator[Web]:
    name = f"browser_{WORKER}"
    with serving(clones.create(name), make_home(), settings.SECRET_KEY) as web:
        yield web
    clones.drop(name)


@pytest.fixture(scope="session")
def filled(web: Web, django_db_blocker: Any) -> Fleet:
    with django_db_blocker.unblock():
        return on_database(web, make_fleet)


def on_database(web: Web, do: Callable[[], Any]) -> Any:
    """Run `do` with the ORM on the web process's database."""
    before = connections["default"].settings_dict["NAME"]
    use_database(web.database.name)
    try:
        return do()
    finally:
        use_database(before)


@pytest.fixture
def fleet(filled: Fleet, web: Web, django_db_blocker: Any) -> Iterator[Fleet]:
    """The rows that are there, by name; while the test runs the ORM uses the web process's database."""
    before = connections["default"].settings_dict["NAME"]
    with django_db_blocker.unblock():
        use_database(web.database.name)
        yield filled
        use_database(before)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """One per file: Playwright's event loop must not be there for the tests of other folders."""
    with pytest.MonkeyPatch.context() as patch, browsing(chromium) as browser:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield browser


class Tabs:
    """One tab for each user and colour scheme, kept from test to test: a new one would load every script anew."""

    def __init__(self, browser: Browser, web: Web) -> None:
        self.browser, self.web = browser, web
        self.open: dict[tuple[str | None, bool], Page] = {}

    def of(self, user: str | None, dark: bool, fresh: bool) -> Page:
        if fresh and (user, dark) in self.open:
            self.open.pop((user, dark)).context.close()
        if (user, dark) not in self.open:
            self.open[user, dark] = self.make(user, dark)
        return self.open[user, dark]

    def make(self, user: str | None, dark: bool) -> Page:
        context = self.browser.new_context(
            base_url=self.web.url,
            viewport=WINDOW,
            color_scheme="dark" if dark else "light",
            timezone_id="UTC",
            reduced_motion="reduce",
        )
        context.set_default_timeout(TIMEOUT_MS)
        if user is not None:
            context.add_cookies([cookie_of(user, self.web)])
        page = context.new_page()
        page.watch = Watch(page, self.web.url)  # type: ignore[attr-defined]
        return page

    def finish(self) -> list[str]:
        """Return what the tabs did wrong in this test, and leave them at a page that asks for nothing; about:blank, of
        another origin, would cost a process of the browser each time."""
        faults = []
        for page in self.open.values():
            page.goto("/static/empty.html")
            faults += page.watch.take_faults()  # type: ignore[attr-defined]
        return faults


def cookie_of(user: str, web: Web) -> Any:
    """Log in without the form, which has a test of its own."""
    client = Client()
    client.force_login(User.objects.get(username=user))
    name = settings.SESSION_COOKIE_NAME
    return {"name": name, "value": client.cookies[name].value, "url": web.url}


@pytest.fixture(scope="module")
def tabs(browser: Browser, web: Web) -> Tabs:
    return Tabs(browser, web)


@pytest.fixture
def open_page(fleet: Fleet, tabs: Tabs) -> Iterator[Callable[..., Page]]:
    """Open a page of the admin as somebody: `open_page("/admin/tasks/task/")`; a second call leads the same tab on.

    `user`: "admin" (the default), "operator" or "viewer" (one of that group), None for nobody. `dark`: the system's
    colours are dark. `fresh`: a new tab that knows nothing of earlier tests (theme, side bar, clock), forgotten after
    this one.

    The test fails for a page that asks another host, gets an answer from 400 on, or writes an error to the console;
    `page.watch.expected.append("403 of")` allows what is meant to happen.
    """
    passing = []

    def open_one(path: str, user: str | None = "admin", dark: bool = False, fresh: bool = False) -> Page:
        page = tabs.of(user, dark, fresh)
        if fresh:
            passing.append((user, dark))
        page.goto(path)
        return page

    yield open_one
    faults = tabs.finish()
    for key in passing:
        tabs.open.pop(key).context.close()
    assert not faults, "\n".join(faults)

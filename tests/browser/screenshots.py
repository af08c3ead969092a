"""The pictures under docs/screenshots, taken anew: of a running installation, or of the one that the tests start.

    make screenshots                                          # of the tests' small fleet
    PASSWORD=... make screenshots URL=http://127.0.0.1:8000   # of `make up`, with the demo's fleet

A picture is one line in SHOTS. Without USER_NAME it is `admin` who looks.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page

from tests.browser.chromium import browsing, find_chromium

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
WINDOW = {"width": 1280, "height": 800}
FIRST_ROW = "#result_list tbody th a"


def open_home(page: Page) -> None:
    page.goto("/admin/")
    page.wait_for_function("window.Chart && Chart.getChart('throughput')")


def open_first_row(address: str) -> Callable[[Page], None]:
    def open_it(page: Page) -> None:
        page.goto(address)
        page.locator(FIRST_ROW).first.click()
        page.wait_for_load_state("networkidle")

    return open_it


def open_graph(page: Page) -> None:
    """Of what sums up a package in the demo's fleet; of any task elsewhere."""
    page.goto("/admin/tasks/task/?task_type=demo.sum_up")
    if not page.locator(FIRST_ROW).count():
        page.goto("/admin/tasks/task/?status=pending")
    page.locator(FIRST_ROW).last.click()
    page.get_by_role("link", name="Graph", exact=True).click()
    page.wait_for_load_state("networkidle")


def open_address(address: str) -> Callable[[Page], None]:
    def open_it(page: Page) -> None:
        page.goto(address, wait_until="networkidle")

    return open_it


# name of the file: what opens the page, and whether it is dark
SHOTS: dict[str, tuple[Callable[[Page], None], bool]] = {
    "home": (open_home, False),
    "home-dark": (open_home, True),
    "agent": (open_first_row("/admin/agents/agent/?q=reader-1"), False),
    "task": (open_first_row("/admin/tasks/task/?status=completed"), False),
    "tasks": (open_address("/admin/tasks/task/"), True),
    "task-graph": (open_graph, False),
    "search": (open_address("/admin/knowledge/fact/search/?q=parse+command+line+options"), False),
    "drills": (open_address("/admin/recovery/testresult/"), False),
    "bridge": (open_address("/admin/bridge/process/live/"), False),
    "backups": (open_address("/admin/recovery/backup/"), False),
    "pools": (open_address("/admin/monitoring/processpool/"), False),
}
# pictures of a state that was brought about by hand
BY_HAND = {"partitions", "locks"}


def take(page: Page, name: str, folder: Path = FOLDER) -> None:
    """Take one picture; the page has logged in already."""
    open_it, dark = SHOTS[name]
    page.set_viewport_size(WINDOW)
    page.emulate_media(color_scheme="dark" if dark else "light", reduced_motion="reduce")
    open_it(page)
    page.screenshot(path=folder / f"{name}.png", animations="disabled")


def main(url: str) -> None:
    chromium = find_chromium()
    if chromium is None:
        sys.exit("chromium is missing\nHINT: make system-deps")
    if "PASSWORD" not in os.environ:
        sys.exit("PASSWORD is not set\nHINT: manage.py admin_password makes a new one")
    with browsing(chromium) as browser:
        page = browser.new_context(base_url=url, timezone_id="UTC").new_page()
        log_in(page, os.environ.get("USER_NAME", "admin"), os.environ["PASSWORD"])
        for name in SHOTS:
            take(page, name)
            print(f"{FOLDER / name}.png", flush=True)  # noqa: T201


def log_in(page: Page, user: str, password: str) -> None:
    page.goto("/admin/login/")
    page.get_by_label("Username").fill(user)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    if page.get_by_label("Password").count():
        sys.exit(f"{user} may not log in\nHINT: manage.py admin_password makes a new password")


if __name__ == "__main__":
    main(sys.argv[1])

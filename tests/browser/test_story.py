"""What people do with the admin, in the browser they do it with."""

import time

from playwright.sync_api import expect

from agents.models import Agent
from agents.registry import register_agent
from agents.state import read_state
from bridge.models import Process
from tasks.enqueue import NewTask, enqueue, enqueue_many
from tasks.models import Task
from tests.browser.fleet import PASSWORD

RENEWED_MS = 5_000


def test_one_logs_in_and_sees_the_fleet(open_page):
    page = open_page("/", user=None, fresh=True)
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("Please enter the correct username and password")).to_be_visible()
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("a.tile", has_text="Agents")).to_be_visible()


def test_knowledge_is_searched_by_meaning_by_words_and_by_both(open_page):
    page = open_page("/admin/")
    page.get_by_role("button", name="Knowledge").press("Enter")  # a group of the navigation
    page.locator("#nav-sidebar-apps a", has_text="Search").press("Enter")
    page.get_by_label("Search", exact=True).fill("how do I find out what weekday it is?")
    page.get_by_label("Search", exact=True).press("Enter")
    expect(page.locator(".hits li").first).to_contain_text("calendar")
    page.get_by_label("How").select_option("By words")
    page.get_by_label("Search", exact=True).fill("compressed")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".hits li")).to_have_count(1)
    expect(page.get_by_role("status")).to_contain_text("1 found by words")
    page.locator(".hits a").first.click()
    expect(page.locator("#content-main")).to_contain_text("Reads and writes compressed files")


def test_a_paused_type_can_be_opened(open_page, fleet):
    page = open_page("/admin/tasks/pause/", user="operator")
    page.get_by_role("link", name="rebuild").click()
    expect(page.get_by_text("the index is being moved")).to_be_visible()


def test_a_script_that_got_into_a_page_does_not_run(open_page):
    page = open_page("/admin/")
    page.watch.expected.append("Content Security Policy")
    refused = page.evaluate(
        """() => new Promise(resolve => {
            const refused = [];
            document.addEventListener("securitypolicyviolation", event => {
                refused.push(event.effectiveDirective);
                if (refused.length === 2) resolve(refused);
            });
            const script = document.createElement("script");
            script.textContent = "window.hasRun = true";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", "<img src='data:,' onerror='window.hasRun = true'>");
        })"""
    )
    assert sorted(refused) == ["script-src-attr", "script-src-elem"]
    assert page.evaluate("window.hasRun") is None


def test_a_long_list_is_walked_with_the_keyboard(open_page):
    enqueue_many(NewTask(task_type="long", payload={"number": number}) for number in range(60))
    page = open_page("/admin/tasks/task/?task_type=long")
    expect(page.get_by_role("navigation", name="Pages")).to_contain_text("60 tasks")
    page.get_by_role("link", name="Next").press("Enter")
    expect(page.locator("#result_list tbody tr")).to_have_count(10)
    page.get_by_role("link", name="Previous").press("Enter")
    expect(page.locator("#result_list tbody tr")).to_have_count(50)


def test_the_fleet_moves_without_a_reload(open_page):
    page = open_page("/admin/login/", fresh=True)
    page.clock.install()
    page.goto("/admin/")
    agents, ready = (
        page.locator("a.tile", has_text=title).locator("strong") for title in ("Agents", "Ready tasks")
    )
    page.evaluate("window.isTheSamePage = true")
    register_agent("newcomer", "newcomer")
    enqueue("echo", {"text": "moves"})
    wait_for_numbers(
        page, agents, ready, (Agent.objects.count(), Task.objects.filter(status="queued").count())
    )
    assert page.evaluate("window.isTheSamePage")


def test_a_state_is_put_back_with_a_preview_and_put_forward_again(open_page, fleet):
    agent = fleet.readers[0]
    before = read_state(agent)
    page = open_page("/admin/agents/checkpoint/")
    page.get_by_role("row", name="before the big one").get_by_role("checkbox").check()
    page.locator("select[name=action]").select_option("restore")
    page.locator("button[name=index]").click()
    expect(page.get_by_role("row", name="current")).to_contain_text("gzip")
    expect(page.get_by_role("row", name="current")).to_contain_text("argparse")
    roll_back(page, "it read the wrong module")
    assert read_state(agent)["current"] == "argparse"
    page.get_by_role("link", name="Undo it").click()
    expect(page.get_by_role("row", name="current")).to_contain_text("gzip")
    roll_back(page, "no, it was right")
    assert read_state(agent) == before


def roll_back(page, reason):
    page.get_by_label("Why?").fill(reason)
    page.get_by_label("also when its last writes").check()  # no flusher runs here
    page.get_by_role("button", name="Roll back").click()
    expect(page.get_by_role("link", name="Undo it")).to_be_visible()


def test_two_values_that_collided_are_shown_side_by_side(open_page):
    page = open_page("/admin/bridge/conflict/")
    page.locator("#result_list tbody th a").first.click()
    values = page.locator("#content-main td pre")
    expect(page.get_by_role("columnheader", name="PostgreSQL (won)")).to_be_visible()
    expect(page.get_by_role("columnheader", name="The agent, in KV (lost)")).to_be_visible()
    left, right = (values.nth(number).bounding_box() for number in (0, 1))
    assert left["x"] + left["width"] <= right["x"]
    assert left["y"] == right["y"]


def test_the_bridge_s_figures_move_without_a_reload(open_page, fleet):
    page = open_page("/admin/bridge/process/")
    page.get_by_role("link", name="Live figures").click()
    expect(page.get_by_role("row", name="flusher AGENT_STATE")).to_contain_text("applied=340")
    page.evaluate("window.isTheSamePage = true")
    bridge = Process.objects.get(pid=4_711)
    bridge.figures["flusher AGENT_STATE"]["applied"] = 341
    bridge.save()
    expect(page.get_by_role("row", name="flusher AGENT_STATE")).to_contain_text("applied=341")
    assert page.evaluate("window.isTheSamePage")


def wait_for_numbers(page, agents, ready, wanted):
    """Let the page's clock jump from renewal to renewal; the server looks anew after 4 seconds of its own."""
    deadline = time.monotonic() + 30
    while (int(agents.inner_text()), int(ready.inner_text())) != wanted:
        assert time.monotonic() < deadline, (
            f"{agents.inner_text()}, {ready.inner_text()}: never became {wanted}"
        )
        with page.expect_response("**/admin/fleet/"):
            page.clock.fast_forward(RENEWED_MS)

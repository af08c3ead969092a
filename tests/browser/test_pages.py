"""Every page opens without an error and asks nobody else; what axe finds serious is an error too.

Looking with axe takes as long as all the rest: every run does it for READ_BY_ALL, `make test-deep` for all pages.
"""

import pytest

from tests.browser.chromium import grave_violations
from tests.browser.pages import MODELS, PAGES, READ_BY_ALL, list_of, row_of
from tests.marks import LATER

OF_DJANGO = {"auth.user", "auth.group"}  # its widget of two lists: labels that a screen reader must not have


def deep(name: str) -> object:
    return pytest.param(name, marks=pytest.mark.deep)


@pytest.mark.parametrize("name", PAGES)
def test_page_opens(open_page, fleet, name):
    assert open_page(PAGES[name](fleet)).title()


@pytest.mark.parametrize("model", MODELS)
def test_list_opens(open_page, model):
    assert open_page(list_of(model)).locator("#changelist").count() == 1


@pytest.mark.parametrize("model", [pytest.param(model, marks=LATER) for model in MODELS])
def test_row_opens(open_page, model):
    if (address := row_of(model)) is not None:
        assert open_page(address).locator("#content-main").count() == 1


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", [name if name in READ_BY_ALL else deep(name) for name in PAGES])
def test_page_can_be_read_by_all(open_page, fleet, name, dark):
    assert grave_violations(open_page(PAGES[name](fleet), dark=dark)) == []


@pytest.mark.deep
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_list_and_row_can_be_read_by_all(open_page, model, dark):
    page = open_page(list_of(model), dark=dark)
    assert grave_violations(page) == []
    if model not in OF_DJANGO and (address := row_of(model)) is not None:
        page.goto(address)
        assert grave_violations(page) == []


@pytest.mark.parametrize("dark", [False, True])
def test_the_login_can_be_read_by_all(open_page, dark):
    assert grave_violations(open_page("/admin/login/", user=None, dark=dark)) == []

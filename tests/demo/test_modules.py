import sys

import pytest

from demo.errors import UnknownModule
from demo.modules import POISONED, find_module, list_modules, submodules_of
from demo.reader import read_source


def test_the_standard_library_is_listed_and_the_poisoned_module_is_last():
    modules = list_modules()
    names = [module.name for module in modules]
    assert names[-1] == POISONED
    assert {"argparse", "json", "asyncio", "this"} <= set(names)
    assert not {"sys", "test", "math"} & set(names), "built in, compiled, or tests"
    assert len(names) == len(set(names)) > 100
    assert all(module.path.is_file() for module in modules)


def test_listing_imports_nothing():
    before = set(sys.modules)
    for module in list_modules():
        submodules_of(module)
    assert not {"this", "antigravity", "idlelib.idle"} & (set(sys.modules) - before)


def test_a_package_has_its_own_modules_one_level_down():
    names = {module.name for module in submodules_of(find_module("json"))}
    assert {"json.decoder", "json.encoder"} <= names
    assert submodules_of(find_module("argparse")) == []


@pytest.mark.parametrize("name", ["argparse", "json.decoder", "xml.etree.ElementTree", POISONED])
def test_a_module_is_found_by_its_dotted_name(name):
    module = find_module(name)
    assert module.name == name
    assert module.path.is_file()


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "nothing",
        "sys",
        "argparse.nothing",
        "json..decoder",
        "json/decoder",
        "../demo",
        "django",
        "test",
        f"{POISONED}.x",
        "json.decoder.x",
        "/etc/passwd",
    ],
)
def test_other_names_lead_nowhere(name):
    with pytest.raises(UnknownModule, match="not a module of the standard library"):
        find_module(name)


def test_the_poisoned_module_does_not_parse():
    with pytest.raises(SyntaxError, match="demo_poisoned"):
        read_source(find_module(POISONED).path.read_text("utf-8"), POISONED)

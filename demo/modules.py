"""Which modules of Python's standard library this machine has the source of. Nothing is imported to find out."""

import importlib.util
import pkgutil
import sys
from dataclasses import dataclass
from pathlib import Path

from demo.errors import UnknownModule

POISONED = "demo_poisoned"
POISONED_PATH = Path(__file__).parent / "poisoned" / f"{POISONED}.py.txt"
# other people's tests, and programs that run when imported
LEFT_OUT = {"__main__", "idle_test", "test", "tests"}


@dataclass(frozen=True)
class Module:
    """A module with its source file; `path` of a package is that of its `__init__.py`."""

    name: str
    path: Path

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


def list_modules() -> list[Module]:
    """Return the top-level modules with a source file, by name; the poisoned one is the last."""
    found = (top_level(name) for name in sorted(sys.stdlib_module_names - LEFT_OUT))
    return [*(module for module in found if module), Module(POISONED, POISONED_PATH)]


def top_level(name: str) -> Module | None:
    """Return the module; None where it is built in, compiled, or not installed."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: __main__ has no spec
        return None
    if spec is None or not spec.has_location or not str(spec.origin).endswith(".py"):
        return None
    return Module(name, Path(str(spec.origin)))


def submodules_of(module: Module) -> list[Module]:
    """Return a package's own modules and packages, one level down; none for a plain module."""
    if not module.is_package:
        return []
    folder = module.path.parent
    names = sorted(info.name for info in pkgutil.iter_modules([str(folder)]) if info.name not in LEFT_OUT)
    found = ((name, source_in(folder, name)) for name in names)
    return [Module(f"{module.name}.{name}", path) for name, path in found if path]


def find_module(name: str) -> Module:
    """Return the module of a dotted name; raise UnknownModule for one that `list_modules` would not lead to."""
    top, *parts = name.split(".")
    if top == POISONED and not parts:
        return Module(POISONED, POISONED_PATH)
    found = top_level(top) if top in sys.stdlib_module_names - LEFT_OUT else None
    for part in parts:
        inner = {module.name: module for module in submodules_of(found)} if found else {}
        found = inner.get(f"{found.name}.{part}") if found else None
    if found is None:
        raise UnknownModule(
            f"{name}: not a module of the standard library with a source file on this machine"
        )
    return found


def source_in(folder: Path, name: str) -> Path | None:
    """Return the source of module `name` in a package's folder; None for a compiled one."""
    paths = (folder / f"{name}.py", folder / name / "__init__.py")
    return next((path for path in paths if path.is_file()), None)

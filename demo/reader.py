"""Read a Python source: what a module, its classes and its functions say of themselves. Pure: no file, no database."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass

MAX_ENTITIES = 400  # per module: the largest of the standard library has more
MAX_SIGNATURE = 500  # characters
MAX_DOCUMENTATION = 4_000  # characters

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Entity:
    """A module, class or function. `summary` is the first line of its docstring, `documentation` what follows; empty
    where it has none. A module has no signature."""

    kind: str  # module, class or function
    name: str  # dotted: "argparse.ArgumentParser.parse_args"
    line: int
    signature: str = ""
    summary: str = ""
    documentation: str = ""


def read_source(source: str, module: str, max_entities: int = MAX_ENTITIES) -> list[Entity]:
    """Return the module first, then its public classes, functions and methods in their order.

    At most `max_entities` in all; of several with one name (a property's setter, an overload) the first. Raises
    SyntaxError (or ValueError, for NUL) where the source does not parse.
    """
    tree = ast.parse(source, filename=module)
    entities = {module: Entity("module", module, 1, "", *split_docstring(tree))}
    for node, name in definitions_in(tree, module):
        if len(entities) >= max_entities:
            break
        if name not in entities:
            entities[name] = describe(node, name)
    return list(entities.values())


def definitions_in(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[Definition, str]]:
    """Yield public definitions with their dotted names, those inside classes too, also under `if` and `try`."""
    for node in statements_in(parent):
        if isinstance(node, Definition) and not node.name.startswith("_"):
            name = f"{prefix}.{node.name}"
            yield node, name
            if isinstance(node, ast.ClassDef):
                yield from definitions_in(node, name)


def statements_in(parent: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(parent):
        yield node
        if isinstance(node, ast.If | ast.Try | ast.ExceptHandler):
            yield from statements_in(node)


def describe(node: Definition, name: str) -> Entity:
    kind = "class" if isinstance(node, ast.ClassDef) else "function"
    return Entity(kind, name, node.lineno, signature_of(node)[:MAX_SIGNATURE], *split_docstring(node))


def signature_of(node: Definition) -> str:
    """Return what follows the name: a class's bases, a function's arguments and return annotation."""
    if isinstance(node, ast.ClassDef):
        return f"({', '.join(ast.unparse(item) for item in [*node.bases, *node.keywords])})"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(node.args)}){returns}"


def split_docstring(node: ast.Module | Definition) -> tuple[str, str]:
    """Return the docstring's first line and what follows it, as PostgreSQL can keep them."""
    text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "").strip()
    text = text.replace("\0", "").encode("utf-8", "replace").decode()
    first, _, rest = text.partition("\n")
    return first.strip(), rest.strip()[:MAX_DOCUMENTATION]

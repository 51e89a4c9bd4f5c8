"""A synchronous type and its ``Async`` twin have the same methods with the same parameters."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
# What closes a thing has two names in Python, depending on whether it is awaited.
TWINS = {"aclose": "close"}


def twins_in(path: Path) -> list[str]:
    """Names of public classes of one module that have an ``Async`` twin beside them."""
    tree = ast.parse(path.read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    return sorted(name for name in names if not name.startswith("_") and f"Async{name}" in names)


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


PAIRS = [
    (module_of(path), name) for path in sorted(SOURCE.rglob("*.py")) for name in twins_in(path)
]


def surface(of: type) -> dict[str, list[tuple[str, str]]]:
    """Public methods of *of*, each with its parameters."""
    return {
        TWINS.get(name, name): [
            (parameter.name, parameter.kind.description)
            for parameter in inspect.signature(method).parameters.values()
        ]
        for name, method in inspect.getmembers(of, inspect.isroutine)
        if not name.startswith("_")
    }


@pytest.mark.parametrize(("module", "name"), PAIRS)
def test_both_colours_have_the_same_surface(module: str, name: str) -> None:
    loaded = importlib.import_module(module)

    assert surface(getattr(loaded, f"Async{name}")) == surface(getattr(loaded, name))

"""What users may import is listed, sorted and explained."""

import ast
import importlib
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
MODULES = sorted(SOURCE.rglob("*.py"))
PUBLIC = [
    path
    for path in MODULES
    if not any(re.match(r"_(?!_)", part) for part in path.relative_to(SOURCE).parts)
    and "versions" not in path.parts
]
PACKAGES = ("railcore", "railcore_adapters", "railcore_sqlalchemy")


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def order(name: str) -> tuple[int, list[tuple[int, int, str]]]:
    """Constants, then types, then functions; numbers by value, as editors sort them."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    parts = re.findall(r"\d+|\D+", name)
    return kind, [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


@pytest.mark.parametrize("path", PUBLIC, ids=name_of)
def test_every_public_module_says_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))

    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":", "?"))


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist(package: str) -> None:
    module = importlib.import_module(package)

    missing = [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)]

    assert missing == []


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_sorted(package: str) -> None:
    names = list(getattr(importlib.import_module(package), "__all__", ()))

    assert names == sorted(set(names), key=order)

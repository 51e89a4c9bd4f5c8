"""
Write `names.md`, the list of public names: what each module lists in ``__all__``.

Run it after a change of the public names: ``python docs/reference/make_names.py``.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = Path(__file__).with_name("names.md")
# Where users import from, below src/.
PLACES = (
    "railcore",
    "railcore/testing",
    "railcore_sqlalchemy",
    "railcore_adapters",
    "railcore_adapters/*",
)
OPENING = """# Names

What users may import, and from where.
Deeper paths are private.
`python docs/reference/make_names.py` writes this page, and a test compares it with the code.
"""


def modules() -> Iterator[str]:
    """Names of the public modules that list their names."""
    source = ROOT / "src"
    for place in PLACES:
        for found in sorted(source.glob(place)):
            if not found.name.startswith("_") and lists_names(found):
                yield ".".join(found.relative_to(source).with_suffix("").parts)


def lists_names(path: Path) -> bool:
    """Tell whether the module at *path* assigns ``__all__``."""
    file = path / "__init__.py" if path.is_dir() else path
    if file.suffix != ".py" or not file.exists():
        return False
    return any(
        isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for node in ast.parse(file.read_text()).body
    )


def line(module: object, name: str) -> str:
    """One row: the name and the first line of its docstring, or its type."""
    value = getattr(module, name)
    documented = inspect.isclass(value) or inspect.isroutine(value)
    docstring = (inspect.getdoc(value) or "") if documented else f"A `{type(value).__name__}`."
    first = (docstring.splitlines() or [""])[0].replace("``", "`").replace("|", r"\|")
    return f"| `{name}` | {first} |\n"


def section(name: str) -> str:
    """One module with its names."""
    module = importlib.import_module(name)
    rows = "".join(line(module, public) for public in module.__all__)
    return f"\n## `{name}`\n\n| Name | What it is |\n|---|---|\n{rows}"


def page() -> str:
    """Return the whole page."""
    return OPENING + "".join(section(name) for name in modules())


if __name__ == "__main__":
    PAGE.write_text(page())

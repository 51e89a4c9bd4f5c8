"""
Write the tables of `what-can-go-wrong.md` from the list of faults, the tests and the figures.

A test that shows a fault carries its id in its name, as ``test_uo3_charged_then_500_is_unknown``
does, so nobody has to keep a list of them. Run it after a change of either:
``python docs/explanation/make_faults.py``.
"""

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = HERE / "what-can-go-wrong.md"
NAMED = re.compile(r"^ *(?:async )?def (test_((?:[a-z]{2}\d{1,2}_)+)\w+)\(", re.MULTILINE)


class Fault(NamedTuple):
    """One thing that can go wrong; ``untested`` says why no test of ours makes it happen."""

    id: str
    fault: str
    outcome: str
    untested: str = ""


def groups() -> Iterator[tuple[str, Sequence[Fault]]]:
    """Yield the title and the faults of each group."""
    for group in _read("faults.toml")["group"]:
        yield group["title"], [Fault(name, **one) for name, one in group["faults"].items()]


def faults() -> Sequence[Fault]:
    """Return all faults."""
    return [one for _, group in groups() for one in group]


def tests_of() -> Mapping[str, Sequence[tuple[str, str]]]:
    """Return the tests of each fault, as (path, name)."""
    found = defaultdict[str, list[tuple[str, str]]](list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, ids in NAMED.findall(path.read_text()):
            for one in ids.upper().strip("_").split("_"):
                found[one].append((path.relative_to(ROOT).as_posix(), name))
    return found


def table() -> str:
    """Return the tables of faults."""
    tests = tests_of()
    lines = list[str]()
    for title, group in groups():
        lines += [f"### {title}", ""]
        lines += ["| | What goes wrong | What happens then | Shown by |", "|---|---|---|---|"]
        lines += [_row(one, tests.get(one.id, ())) for one in group]
        lines.append("")
    return "\n".join(lines)


def _row(one: Fault, tests: Sequence[tuple[str, str]]) -> str:
    files = sorted({path for path, _ in tests})
    where = ", ".join(f"[{Path(path).stem}](../../{path})" for path in files)
    shown = f"`pytest -k {one.id.lower()}_` in {where}" if tests else "no test: see below"
    return f"| {one.id} | {one.fault} | {one.outcome} | {shown} |"


def untested() -> str:
    """Return the faults that no test makes happen, with the reason."""
    tests = tests_of()
    lines = [f"- **{one.id}**: {one.untested}" for one in faults() if one.id not in tests]
    return "\n".join([*lines, ""])


def figures() -> str:
    """Return the figures of the last long runs."""
    lines = list[str]()
    for run in _read("figures.toml").get("run", []):
        lines += [f"### {run['title']}", ""]
        lines += [f"`{run['command']}`, {run['date']}, seed {run['seed']}.", ""]
        lines += [f"- {line}" for line in run["figures"]]
        lines.append("")
    return "\n".join(lines) or "None yet.\n"


PARTS = {"faults": table, "untested": untested, "figures": figures}


def page() -> str:
    """Return the page with its parts written anew."""
    text = PAGE.read_text()
    for name, part in PARTS.items():
        begin, end = f"<!-- {name}: made by make_faults.py -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{part()}\n{end}{after}"
    return text


def _read(name: str) -> Mapping[str, Any]:
    return tomllib.loads((HERE / name).read_text())


if __name__ == "__main__":
    PAGE.write_text(page())

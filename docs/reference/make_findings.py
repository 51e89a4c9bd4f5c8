"""
Write `findings.md` from the tables of what `railcore doctor` can find.

Run it after a change of those tables: ``python docs/reference/make_findings.py``.
"""

from collections.abc import Mapping
from pathlib import Path

from railcore.health import SETTING_SYMPTOMS, Symptom
from railcore_sqlalchemy.doctor.symptoms import ACCESS, CATALOGUE, DATA, SERVER

PAGE = Path(__file__).with_name("findings.md")
OPENING = """# Findings

What `railcore doctor` can find: the code, what it means, and what to do.
[Look whether all is well](../howto/doctor.md) tells how to ask.
`python docs/reference/make_findings.py` writes this page, and a test compares it with the code.
"""
SECTIONS: Mapping[str, Mapping[str, Symptom]] = {
    "Settings of a host": SETTING_SYMPTOMS,
    "The schema": CATALOGUE,
    "Roles": ACCESS,
    "The server": SERVER,
    "The rows": DATA,
}
REFUSED = """
The command has one more, `configuration_refused`: the file of `--routes` is one with which nothing starts.
"""


def section(title: str, symptoms: Mapping[str, Symptom]) -> str:
    """Return one table."""
    rows = "".join(
        f"| `{one.code}` | {one.meaning} | {one.remedy} |\n" for one in symptoms.values()
    )
    return f"\n## {title}\n\n| Code | What is wrong | What to do |\n|---|---|---|\n{rows}"


def page() -> str:
    """Return the whole page."""
    return OPENING + "".join(section(*pair) for pair in SECTIONS.items()) + REFUSED


if __name__ == "__main__":
    PAGE.write_text(page())

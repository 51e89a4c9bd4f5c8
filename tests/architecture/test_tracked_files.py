"""The project speaks of itself alone: no address of a machine or of a package registry."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Written with classes so that this file does not find itself.
FOREIGN = re.compile(
    r"/wor[k]/|/roo[t]/|/hom[e]/\w+/|/User[s]/\w+/|/tmp/\w*job[s]|p[y]pi\.org|pythonh[o]sted\.org"
    r"|deb\.debi[a]n\.org|registry\.npm[j]s\.org|n[o]dejs\.org"
)


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    if listed.returncode:  # an unpacked source distribution
        return [
            path for folder in ("src", "tests", "docs") for path in (ROOT / folder).rglob("*.*")
        ]
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_no_file_names_a_machine_path_or_a_registry() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in tracked()
        if path.is_file()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if (match := FOREIGN.search(line))
    ]

    assert found == []


def test_constraints_are_plain_names_and_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()

    odd = [line for line in lines if not re.fullmatch(r"#.*|[\w.-]+==[\w.!+]+", line)]

    assert odd == []

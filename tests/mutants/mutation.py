"""What a mutant is: one rule of the source weakened, and the tests that have to notice."""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import attrs

ROOT: Final = Path(__file__).parents[2]
_FAULT: Final = re.compile(r"(?<=::test_)[a-z]{2}[0-9]+_(?=[a-z])")
"""The id of a fault in the name of a test: mutants name tests without."""


class StaleMutantError(Exception):
    """A mutant that no longer fits the source."""


@attrs.frozen
class Mutant:
    """
    One rule weakened.

    Attributes:
        name: Which rule, in a few words.
        file: The file, as it is called below ``src``.
        before: A text that is in the file exactly once, as short as that allows.
        after: What stands there instead.
        tests: Node ids, without ids of faults. Every one of them has to fail; one without brackets
            has failed when one of its cases has.
        also: Further pairs of texts, for a rule that is kept in several places of the file.
    """

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    also: tuple[tuple[str, str], ...] = ()

    def applied(self, text: str) -> str:
        """
        Return *text* with the rule weakened.

        Raises:
            StaleMutantError: One of the texts is not there exactly once.
        """
        for before, after in ((self.before, self.after), *self.also):
            found = text.count(before)
            if found != 1:
                raise StaleMutantError(
                    f"{self.name}: wanted {before!r} once in {self.file}, found it {found} times"
                )
            text = text.replace(before, after)
        return text


def source(file: str) -> str:
    """Return what *file* below ``src`` says."""
    return (ROOT / "src" / file).read_text()


def without_fault(test: str) -> str:
    """Return a node id without the id of a fault."""
    return _FAULT.sub("", test)


def collected(tests: Iterable[str], folder: Path = ROOT) -> dict[str, list[str]]:
    """Return which cases each of *tests* has in *folder*."""
    files = sorted({test.partition("::")[0] for test in tests})
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "--no-header", *files],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    there: dict[str, list[str]] = {}
    for case in listed:
        plain = without_fault(case)
        for name in {plain, plain.partition("[")[0]}:
            there.setdefault(name, []).append(case)
    return {test: there.get(without_fault(test), []) for test in tests}

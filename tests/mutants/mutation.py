"""What a mutant is: one rule of the source weakened, and the tests that have to notice."""

from pathlib import Path
from typing import Final

import attrs

ROOT: Final = Path(__file__).parents[2]


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
        tests: Node ids. Every one of them has to fail; one without brackets has failed when one of
            its cases has.
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

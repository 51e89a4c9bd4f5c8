"""
The SQL files, read and prepared for a driver.

A file holds one statement with ``:name`` parameters, as psql and pgbench read it. Drivers want
other marks: psycopg ``%(name)s``, the wire protocol ``$1``.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import attrs

__all__ = ["VERDICT_OF_CONSTRAINT", "Statement", "read", "statement"]

VERDICT_OF_CONSTRAINT: Mapping[str, str] = {
    "due_limit": "live",
    "in_doubt_limit": "in_doubt",
    "follow_up_in_doubt": "in_doubt",
    "parent_limit": "limit",
    "capture_limit": "limit",
    "refund_limit": "limit",
    "railcore_execution_pkey": "again",
    "railcore_payment_pkey": "again",
    "railcore_event_pkey": "again",
    "railcore_event_state": "again",
    "railcore_outbox_pkey": "again",
    "state_has_event": "again",
}
"""
What a constraint says that a claim or a record ran into although its own check had passed:
another transaction was quicker. `live`, `in_doubt` and `limit` are verdicts as the statement itself
gives them; `again` means run it once more, alone. Any other constraint is a mistake of the caller.
"""

_COMMENT = re.compile(r"--[^\n]*")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")


@attrs.frozen(kw_only=True)
class Statement:
    """One statement of the library, in the spellings that drivers want."""

    name: str
    text: str
    """As in the file, without comments."""
    names: tuple[str, ...]
    """The parameters, in order of appearance; each has one number in `numbered`."""

    @property
    def named(self) -> str:
        """The text with ``%(name)s`` for psycopg."""
        return _PARAMETER.sub(r"%(\1)s", self.text.replace("%", "%%"))

    @property
    def numbered(self) -> str:
        """The text with ``$1`` for the wire protocol; a parameter used twice has one number."""
        return _PARAMETER.sub(lambda found: f"${self.names.index(found[1]) + 1}", self.text)


@cache
def read(name: str) -> str:
    """Return the text of ``sql/<name>.sql``."""
    return files("railcore_sqlalchemy").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


@cache
def statement(name: str) -> Statement:
    """Return the statement in ``sql/<name>.sql``."""
    text = _COMMENT.sub("", read(name)).strip()
    return Statement(name=name, text=text, names=tuple(dict.fromkeys(_PARAMETER.findall(text))))

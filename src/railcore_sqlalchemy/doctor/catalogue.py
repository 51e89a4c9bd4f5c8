"""
The catalogue of the database against the one that ``sql/`` makes.

What ``sql/`` makes was recorded from a database in which it was just installed, in
``catalogue.json``; a test compares the two. PostgreSQL prints definitions a little differently from
version to version: before they are compared, blanks, parentheses and casts are taken out, so that
names, columns, operators, values and function bodies count and brackets do not.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Final

import attrs

Found = tuple[str, str, str]
"""Code, subject, what is there."""

_CAST: Final = re.compile(
    r"::(?:text|bigint|integer|smallint|numeric|double precision|character varying|bytea)(?:\[\])?"
)
_BRACKETS: Final = re.compile(r"[()]")
_BLANKS: Final = re.compile(r"\s+")
_BESIDE_SIGNS: Final = re.compile(r" ?([^\w ]+) ?")


@attrs.frozen(order=True)
class Fact:
    """One line of the catalogue: what it is, of which table, its name and its definition."""

    kind: str
    of: str
    name: str
    definition: str

    @property
    def subject(self) -> str:
        """The fact, as people name it."""
        return f"{self.kind} {self.name}" + (f" of {self.of}" if self.of != self.name else "")

    @classmethod
    def of_row(cls, kind: str, of: str, name: str, definition: str) -> "Fact":
        """Return it as it is compared."""
        told = _BLANKS.sub(" ", definition).strip()
        if kind != "function":
            bare = _BLANKS.sub(" ", _BRACKETS.sub(" ", _CAST.sub("", told)))
            told = _BESIDE_SIGNS.sub(r"\1", bare).strip().lower()
        return cls(kind, of, name, told)


@attrs.frozen(order=True)
class Right:
    """What a role may do with a table, or with a column of it: ``update (seq)``."""

    role: str
    of: str
    privilege: str

    def as_of(self, group: str) -> frozenset["Right"]:
        """Return the rights of *group* that this is one of or a part of."""
        whole = self.privilege.partition(" (")[0]
        return frozenset(Right(group, self.of, name) for name in (self.privilege, whole))


@cache
def recorded() -> Sequence[Fact]:
    """Return the facts of a database in which the schema was just installed."""
    return tuple(Fact(*one) for one in _file()["facts"])


@cache
def recorded_rights() -> frozenset[Right]:
    """Return the rights that ``roles.sql`` and ``wallet_roles.sql`` give."""
    return frozenset(Right(*one) for one in _file()["rights"])


def functions() -> Sequence[str]:
    """Return the names of the guards' functions."""
    return [fact.name for fact in recorded() if fact.kind == "function"]


@cache
def _file() -> Mapping[str, list[list[str]]]:
    text = files("railcore_sqlalchemy").joinpath("doctor", "catalogue.json").read_text("utf-8")
    told: Mapping[str, list[list[str]]] = json.loads(text)
    return told


def compare(found: Iterable[Fact]) -> Iterator[Found]:
    """Yield what of *found* is not as it was recorded."""
    there = {(one.kind, one.of, one.name): one for one in found}
    for wanted in recorded():
        yield from _compare(wanted, there.pop((wanted.kind, wanted.of, wanted.name), None))
    for left in there.values():
        yield from _unwanted(left)


def _compare(wanted: Fact, there: Fact | None) -> Iterator[Found]:
    if there is None:
        kind = "column" if wanted.kind == "table" else wanted.kind
        yield f"{kind}_missing", wanted.subject, "missing"
    elif there.definition == wanted.definition:
        return
    elif wanted.kind == "table":
        yield "table_unlogged", wanted.subject, there.definition
    elif wanted.kind == "trigger" and there.definition[:-1] == wanted.definition[:-1]:
        mode = _MODES.get(there.definition[-1], there.definition[-1])
        yield "trigger_disabled", wanted.subject, mode
    elif wanted.kind == "function":
        yield "function_differs", wanted.subject, _difference(wanted, there)
    else:
        yield f"{wanted.kind}_differs", wanted.subject, _difference(wanted, there)


def _difference(wanted: Fact, there: Fact) -> str:
    """Return where two definitions part, for people who compare them."""
    same = 0
    for one, other in zip(wanted.definition, there.definition, strict=False):
        if one != other:
            break
        same += 1
    start = max(0, same - 20)
    one, other = wanted.definition[start : same + 40], there.definition[start : same + 40]
    return f"wanted ...{one!r}, found ...{other!r}"


_MODES: Final = {"d": "disabled", "o": "enabled, not always", "r": "enabled for replicas only"}
_UNWANTED: Final = {
    "trigger": "trigger_unknown",
    "rule": "trigger_unknown",
    "check of a foreign key": "foreign_key_disabled",
    "row security": "row_security_on",
}


def _unwanted(left: Fact) -> Iterator[Found]:
    if left.kind in _UNWANTED:
        subject = (
            left.subject
            if left.kind != "check of a foreign key"
            else (f"constraint {left.name} of {left.of}")
        )
        yield _UNWANTED[left.kind], subject, _WORDS.get(left.kind, "unknown to railcore")


_WORDS: Final = {"check of a foreign key": "not asked when rows change", "row security": "on"}

"""
The questions to the rows: those of ``sql/doctor``, and one for each foreign key and each CHECK.

Each gives rows of ``code``, ``tenant_id``, ``subject`` and ``found``, one for what is wrong.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

import attrs
from sqlalchemy import Table
from sqlalchemy.schema import CheckConstraint, ForeignKeyConstraint

from railcore_sqlalchemy.statements import statement
from railcore_sqlalchemy.tables import metadata

FILES: Final = (
    "journal",
    "states",
    "chain",
    "sums",
    "disputed",
    "parents",
    "executions",
    "keys",
    "outbox",
    "people",
    "webhooks",
    "wallet",
)
# Three are told by files, under names of their own; bodies of webhooks no reader may read.
_NOT_ASKED: Final = frozenset(
    {"head_has_event", "state_has_event", "never_forgotten", "inbox_body_is_bounded"}
)
_TABLE: Final = re.compile(r"\b(?P<word>from|join)\s+(?P<name>railcore_\w+)")
_NEWS: Final = (
    "select n.aggregateid, n.tenant_id from (table railcore_event) n"
    " where n.occurred_at >= %(since)s::timestamptz"
)
_NUMBERED: Final = """
select * from (
  select f.*, count(*) over (partition by f.code) as total,
    row_number() over (partition by f.code order by f.tenant_id, f.subject, f.found) as place
  from ({text}) f
) n where n.place <= %(limit)s::integer order by n.code, n.place
"""


@attrs.frozen
class Question:
    """A question, its text with ``%(name)s``, and the names of the bounds that it needs."""

    name: str
    text: str
    needs: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Scope:
    """
    Which rows are looked at.

    Tables are narrowed where a question names them after FROM or JOIN, before anything is counted.

    Attributes:
        tenant_id: Of one tenant; None for all.
        since: Of payments that had news since; None for all.
        limit: How many rows of one code are given. All are counted.
    """

    tenant_id: str | None
    since: datetime | None
    limit: int

    def parameters(self) -> Mapping[str, object]:
        """Return what `narrowed` needs."""
        return {"tenant": self.tenant_id, "since": self.since, "limit": self.limit}

    def narrowed(self, text: str) -> str:
        """Return *text* for these rows, each with ``total`` of its code."""
        return _NUMBERED.format(text=_TABLE.sub(self._narrow, text))

    def _narrow(self, found: "re.Match[str]") -> str:
        name, where = found["name"], list[str]()
        columns = metadata.tables[name].c
        if self.tenant_id is not None and "tenant_id" in columns:
            where.append("tenant_id = %(tenant)s::text")
        payment = "aggregateid" if "aggregateid" in columns else "payment_id"
        if self.since is not None and payment in columns:
            where.append(f"({payment}, tenant_id) in ({_NEWS})")
        if not where:
            return found[0]
        return f"{found['word']} (select * from {name} where {' and '.join(where)})"  # noqa: S608 - names of ours


def ask(name: str) -> Question:
    """Return the question in ``sql/doctor/<name>.sql``."""
    ready = statement(f"doctor/{name}")
    return Question(name, ready.named, ready.names)


def of_constraints() -> Iterator[Question]:
    """Yield a question for each foreign key and each CHECK: do the rows keep it?"""
    for table in metadata.tables.values():
        for rule in sorted(table.constraints, key=lambda it: str(it.name)):
            if rule.name in _NOT_ASKED:
                continue
            if isinstance(rule, ForeignKeyConstraint):
                yield Question(str(rule.name), _orphans(table, rule))
            elif isinstance(rule, CheckConstraint):
                yield Question(str(rule.name), _unlawful(table, rule))


def _orphans(table: Table, rule: ForeignKeyConstraint) -> str:
    """Ask for rows that name what is not there; what they name may be outside of the scope."""
    pairs = [(key.parent.name, key.column.name) for key in rule.elements]
    same = " and ".join(f"p.{theirs} = c.{ours}" for ours, theirs in pairs)
    told = ", ".join(f"c.{ours}" for ours, _ in pairs)
    parent = rule.referred_table.name
    return f"""
        select 'reference_broken' as code, c.tenant_id, {_subject(table)} as subject,
          '{rule.name}: ' || concat_ws('/', {told}) || ' is not in {parent}' as found
        from {table.name} c left join (table {parent}) p on {same}
        where num_nulls({told}) = 0 and p.tenant_id is null"""  # noqa: S608 - names of ours


def _unlawful(table: Table, rule: CheckConstraint) -> str:
    text = str(rule.sqltext).replace("%", "%%")
    return f"""
        select 'check_broken' as code, c.tenant_id, {_subject(table)} as subject,
          '{rule.name}' as found
        from {table.name} c where not ({text})"""  # noqa: S608 - names of ours


def _subject(table: Table) -> str:
    keys = [f"c.{column.name}" for column in table.primary_key if column.name != "tenant_id"]
    return f"'{table.name} ' || concat_ws('/', {', '.join(keys)})"

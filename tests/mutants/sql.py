"""Weakened rules of the database: statements, constraints and guards."""

from typing import Final

from tests.mutants.mutation import Mutant

_SQL = "railcore_sqlalchemy/sql/"
_STATEMENTS = "tests/sqlalchemy/test_sql_statements.py::"
_GUARDS = "tests/sqlalchemy/test_sql_guards.py::"
_RACES = "tests/sqlalchemy/test_sql_races.py::"
_STORE = "tests/contract/test_execution_store.py::TestPostgres::"
_OUTBOX = "tests/contract/test_outbox.py::TestPostgres::"

SQL: Final = (
    Mutant(
        "record without `version =`",
        _SQL + "record.sql",
        " and version = :version::integer\n",
        "\n",
        (_STATEMENTS + "test_an_answer_to_another_state_is_stale[single-given0]",),
    ),
    Mutant(
        "no CHECK that an open execution has a date",
        _SQL + "schema.sql",
        ",\n  constraint never_forgotten check "
        "((status in ('processing', 'pending')) = (next_check_at is not null))",
        "",
        (_GUARDS + "test_an_open_execution_says_why_and_when",),
    ),
    Mutant(
        "sums of a follow-up without the head's lock",
        _SQL + "claim_followup.sql",
        "  for no key update\n",
        "",
        (_RACES + "test_one_of_four_racing_refunds_wins[single]",),
    ),
)

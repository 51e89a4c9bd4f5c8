"""What can be found in a database, by code: what it means and what to do."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from railcore.health import Symptom, index

_REPAIR: Final = (
    "Stop workers, find who changed rows by hand, and restore the rows from a copy of the database."
)
_REINSTALL: Final = "Put it back as the schema has it: `railcore schema sql` prints it."
_ROLES: Final = "Run `schema.install_roles`, or `railcore schema sql` and its part on roles."

CATALOGUE: Final = index(
    ("column_missing", "A table or a column is missing.", "Install or migrate the schema."),
    (
        "column_differs",
        "A column has another type, collation, default or may be null.",
        _REINSTALL + ' A text key that is not COLLATE "C" can break with the system\'s library.',
    ),
    ("constraint_missing", "A constraint is missing: what it refused can be stored.", _REINSTALL),
    (
        "constraint_differs",
        "A constraint says something else, was never validated, or is not enforced.",
        _REINSTALL,
    ),
    ("index_missing", "An index is missing: statements scan, locks are held long.", _REINSTALL),
    ("index_differs", "An index is on something else, or is not valid.", _REINSTALL),
    (
        "trigger_missing",
        "A guard is missing: SQL typed by hand is not refused.",
        _REINSTALL,
    ),
    ("trigger_differs", "A guard watches something else than it should.", _REINSTALL),
    (
        "trigger_disabled",
        "A guard is not ENABLE ALWAYS: it refuses nothing, or not in every session.",
        "ALTER TABLE ... ENABLE ALWAYS TRIGGER ..., then look again: rows may have been changed.",
    ),
    (
        "trigger_unknown",
        "A trigger or a rule stands on a table of railcore that is not railcore's.",
        "Find out whose it is, and drop it: it can change or swallow what is written.",
    ),
    (
        "foreign_key_disabled",
        "A foreign key is not asked: its triggers are switched off.",
        "ALTER TABLE ... ENABLE TRIGGER ALL as a superuser, and enable the guards ALWAYS again.",
    ),
    ("function_missing", "The function of a guard is missing.", _REINSTALL),
    ("function_differs", "The function of a guard is not the one of this release.", _REINSTALL),
    (
        "table_unlogged",
        "A table is not written to the log: a crash empties it.",
        "ALTER TABLE ... SET LOGGED.",
    ),
    (
        "row_security_on",
        "Row security hides rows of a table from some roles.",
        "ALTER TABLE ... DISABLE ROW LEVEL SECURITY; railcore does not know it.",
    ),
    (
        "edges_differ",
        "railcore_edge is not the transition table of this release.",
        "Correct its rows; nothing is written by it, but people and reports read it.",
    ),
    (
        "buckets_missing",
        "railcore_bucket has not its 64 rows: the relay misses the events of a bucket.",
        "Insert the missing numbers from 0 to 63.",
    ),
    (
        "migration_unknown",
        "The schema was migrated to a revision that this release does not know.",
        "Run the release that migrated it, or a newer one.",
    ),
    (
        "migration_behind",
        "The schema was not migrated to this release.",
        "Run the migrations: `railcore_sqlalchemy.migrations.upgrade`.",
    ),
)

ACCESS: Final = index(
    ("role_missing", "A role is missing.", _ROLES + " Without roles, do not look for them."),
    (
        "role_too_mighty",
        "A role that works with payments is a superuser, may make roles, or passes row security.",
        "ALTER ROLE ... NOSUPERUSER NOCREATEROLE NOBYPASSRLS.",
    ),
    ("right_missing", "A role may not do what it has to.", _ROLES),
    (
        "right_too_many",
        "A role, or somebody who logs in as one, may do more than it has to.",
        "REVOKE it. What may not be deleted or changed cannot be, by mistake either.",
    ),
    (
        "role_without_timeout",
        "Sessions of a role wait for locks, or sit in a transaction, without bounds.",
        _ROLES + " Settings of a group do not reach its members: run it after each new login.",
    ),
)

SERVER: Final = index(
    (
        "standby",
        "The server is a standby: nothing can be written, and what it shows may be old.",
        "Connect hosts, workers and relays to the primary.",
    ),
    ("server_too_old", "The server is older than PostgreSQL 14.", "Upgrade it."),
    (
        "commit_not_durable",
        "A commit may be lost in a crash: a payment may be sent of which nothing is known after.",
        "Set fsync, full_page_writes and synchronous_commit to on, for every role and database.",
    ),
    (
        "replication_role",
        "Sessions begin as replicas: foreign keys are not asked.",
        "ALTER ROLE or DATABASE ... RESET session_replication_role.",
    ),
    (
        "connections_too_many",
        "All processes together may hold more connections than the server takes.",
        "Lower the pools or raise max_connections; or put PgBouncer between.",
    ),
    (
        "transaction_forgotten",
        "A transaction was left open; it may hold payments, and it keeps old rows from removal.",
        "End it: pg_terminate_backend, or ROLLBACK PREPARED.",
    ),
)

DATA: Final = index(
    (
        "head_without_event",
        "The head of a payment stands at an event that is not in the journal.",
        _REPAIR,
    ),
    ("head_behind", "The journal goes on after the head of its payment.", _REPAIR),
    ("event_without_head", "Events belong to a payment that has no head.", _REPAIR),
    ("seq_missing", "The journal of a payment has a hole, or does not begin at 1.", _REPAIR),
    ("state_without_event", "No event tells how an execution came to its state.", _REPAIR),
    (
        "state_disagrees",
        "An execution and the event of its version tell different things.",
        "Ask the provider which is true (`railcore explain`). " + _REPAIR,
    ),
    ("version_disagrees", "The version of an execution is not the number of its events.", _REPAIR),
    (
        "chain_broken",
        "The changes of an execution do not follow from one another, or are no transitions.",
        _REPAIR,
    ),
    ("event_without_execution", "An event tells of an execution that is not there.", _REPAIR),
    ("execution_without_payment", "Executions belong to a payment that has no head.", _REPAIR),
    ("currency_differs", "An execution is in another currency than its payment.", _REPAIR),
    ("sums_disagree", "The sums of a payment do not follow from its executions.", _REPAIR),
    (
        "dispute_disagrees",
        "A payment holds back another amount than its open discrepancies tell.",
        _REPAIR,
    ),
    (
        "limit_exceeded",
        "More is charged than due, captured than authorized, or refunded than captured.",
        "Money may have moved that should not have: compare with the provider. " + _REPAIR,
    ),
    (
        "parent_missing",
        "A capture, a void or a refund follows nothing that could be followed.",
        _REPAIR,
    ),
    ("row_unlawful", "An execution breaks a rule that its guard keeps.", _REPAIR),
    ("key_twice", "Two executions have one idempotency key.", "REINDEX. " + _REPAIR),
    ("check_broken", "A row breaks a constraint of its table.", _REPAIR),
    ("reference_broken", "A row names another that is not there.", _REPAIR),
    (
        "execution_forgotten",
        "An open execution has no date to look at it again, or a finished one has.",
        "Set next_check_at to now(): a worker will look it up. Then " + _REPAIR.lower(),
    ),
    (
        "execution_overdue",
        "An open execution should have been looked at long ago.",
        "Start workers (`railcore worker`) or more of them; see whether their account is paused.",
    ),
    (
        "check_far_off",
        "An open execution is to be looked at in the far future.",
        "See whether the server's clock jumped; set next_check_at to now().",
    ),
    (
        "lease_endless",
        "An execution is leased for far too long: nobody else may look at it.",
        "See whether the server's clock jumped; set lease_until to now().",
    ),
    (
        "outbox_gap",
        "Events that were to be delivered are gone from the outbox.",
        "`railcore events replay` with a time before them delivers them again.",
    ),
    (
        "outbox_without_event",
        "The outbox names an event that is not in the journal; its bucket cannot go on.",
        _REPAIR,
    ),
    (
        "event_parked",
        "No sink took an event: it waits for a person, and those after it with it.",
        "Mend the sink, then `railcore events unpark`.",
    ),
    (
        "event_overdue",
        "Events wait for their delivery too long.",
        "Start a relay, or see what it says. Where none is meant to run, do not look for them.",
    ),
    (
        "discrepancy_waiting",
        "News that contradicts what is known waits for a person too long.",
        "`railcore review list`, then `railcore review resolve`.",
    ),
    (
        "webhook_parked",
        "Nobody could apply a webhook: it waits for a person.",
        "`railcore webhooks parked` says why; mend that, then `railcore webhooks replay`.",
    ),
    (
        "webhook_overdue",
        "A webhook should have been applied long ago.",
        "Start workers that apply the inbox.",
    ),
    (
        "wallet_imbalance",
        "The sums of a wallet account do not follow from its transfers.",
        "Let nobody spend from it. " + _REPAIR,
    ),
    ("hold_disagrees", "A hold and what resolved it do not fit.", _REPAIR),
    (
        "hold_overdue",
        "A hold is over and still reserves.",
        "Start workers that expire holds, or call `expire_holds`.",
    ),
    (
        "wallet_payment_disagrees",
        "A payment from a wallet moved another amount than it says.",
        _REPAIR,
    ),
)

SYMPTOMS: Final[Mapping[str, Symptom]] = MappingProxyType({**CATALOGUE, **ACCESS, **SERVER, **DATA})
"""What `diagnose` can find, by code."""

"""
What a store does, as flows that ask for statements and receive rows.

They hold every decision about verdicts, races and errors once, for both colours of store. Three
rules:

1. A refusal that another transaction caused is looked at again before it is believed: after
   ``limit``, ``live`` and the like the key is read first, in a statement of its own, because a
   retry of a request that just won sees its own reservation as used up.
2. What lost a race (deadlock, serialization, a head that appeared in between) is run again, at most
   three times; nothing of it was committed.
3. Members of a shared statement never pay for each other: whatever fails as a whole is run again
   one by one.
"""

import re
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import timedelta
from typing import Final, Generic, TypeVar

import attrs

from railcore.errors import (
    ExecutionNotFoundError,
    IllegalTransitionError,
    InProgressError,
    MisconfiguredError,
    RailcoreError,
    StoreError,
)
from railcore.events import EventDraft, JournalEvent
from railcore.execution import PaymentExecution, PaymentView
from railcore.lifecycle import Discrepancy
from railcore.protocol import (
    Acquired,
    Adoption,
    Claim,
    ClaimOutcome,
    ClaimVerdict,
    Due,
    Recording,
    ResolveOutcome,
    ResolveVerdict,
    Resolving,
    in_the_way,
)
from railcore.review import NotedDiscrepancy, Orphan
from railcore.webhooks import Sought
from railcore_sqlalchemy import rows
from railcore_sqlalchemy.driver import Query, StatementFailed, Template, template
from railcore_sqlalchemy.rows import Parameters, Row
from railcore_sqlalchemy.statements import VERDICT_OF_CONSTRAINT, read

Result = TypeVar("Result")
Item = TypeVar("Item")
Flow = Generator[Query, Sequence[Row], Result]
"""A conversation with the database."""

ATTEMPTS: Final = 3
RETRY_AFTER: Final = timedelta(milliseconds=250)

_CLAIM: Final = template("claim", writes=True, prepared=True)
_CLAIM_FOLLOWUP: Final = template("claim_followup", writes=True, prepared=True)
_CLAIM_MANY: Final = template("claim_many", writes=True, prepared=True)
_RECORD: Final = template("record", writes=True, prepared=True)
_RECORD_FOLLOWUP: Final = template("record_followup", writes=True, prepared=True)
_RECORD_MANY: Final = template("record_many", writes=True, prepared=True)
_ACQUIRE: Final = template("acquire", writes=True)
_MARK_SENT: Final = template("mark_sent", writes=True, prepared=True)
_ACQUIRE_DUE: Final = template("acquire_due", writes=True)
_PUT_BACK: Final = template("put_back", writes=True, prepared=True)
_RESCHEDULE: Final = template("reschedule", writes=True, prepared=True)
_DISCREPANCY: Final = template("discrepancy", writes=True)
_ORPHAN: Final = template("orphan", writes=True)
_RESOLVE: Final = template("resolve", writes=True)
_BOOK_ADOPTED: Final = template("book_adopted", writes=True)
_HEAD_LOCK: Final = template("discrepancy_head_lock", writes=True)
_DISCREPANCY_LOCK: Final = template("discrepancy_lock", writes=True)
_BEGIN: Final = template("begin")
_COMMIT: Final = template("commit", writes=True)
_ROLLBACK: Final = template("rollback")
_DISCREPANCY_BY_ID: Final = template("discrepancy_by_id")
_DISCREPANCIES: Final = template("discrepancies")
_DISCREPANCIES_OF: Final = template("discrepancies_of_payment")
_WAITING_FOR_REVIEW: Final = template("waiting_for_review")
_BY_ID: Final = template("execution_by_id")
_BY_KEY: Final = template("execution_by_key")
_BY_NAME: Final = template("execution_by_name")
_OF_PAYMENT: Final = template("executions_of_payment")
_OPEN: Final = template("open_executions")
_PAYMENT: Final = template("payment")
_EVENTS: Final = template("events_of_payment")
_SESSION: Final = template("session")

_LOCKED: Final = "55P03"
_LOST_A_RACE: Final = frozenset({"40001", "40P01"})
_NO_EDGE: Final = "RC002"
_NO_ROOM: Final = frozenset({"live", "in_doubt", "limit"})
_AGAIN: Final = "again"
_BUSY: Final = "busy"


@attrs.frozen(eq=False)
class Request(Generic[Item]):
    """Something to be written; encoded by its caller, so that a mistake in it stays there."""

    item: Item
    parameters: Parameters
    single: Template

    @property
    def payment(self) -> tuple[str | None, str | None]:
        """The payment that it is about: one statement takes one of each."""
        return self.parameters["tenant_id"], self.parameters["payment_id"]

    def alone(self) -> Query:
        """Return the statement for this request by itself."""
        return self.single(self.parameters)


def claim_request(claim: Claim) -> Request[Claim]:
    """Return *claim*, encoded; raise InvalidValueError when its event is not JSON-like."""
    follows = claim.execution.operation.follows_a_parent
    return Request(claim, rows.claim_parameters(claim), _CLAIM_FOLLOWUP if follows else _CLAIM)


def record_request(recording: Recording) -> Request[Recording]:
    """Return *recording*, encoded; raise InvalidValueError when its event is not JSON-like."""
    follows = recording.before.operation.follows_a_parent
    form = _RECORD_FOLLOWUP if follows else _RECORD
    return Request(recording, rows.record_parameters(recording), form)


def claim(request: Request[Claim]) -> Flow[ClaimOutcome]:
    """Claim one execution; InProgressError while another transaction holds it or its payment."""
    for _ in range(ATTEMPTS):
        try:
            (row,) = yield request.alone()
        except StatementFailed as failed:
            verdict = _verdict_of(failed, request.item.execution)
            if verdict != _AGAIN:
                return (yield from _not_claimed(request.item, ClaimVerdict(verdict)))
        else:
            return (yield from _settle_claim(request, row))
    raise _in_progress(request.item.execution)


def record(request: Request[Recording]) -> Flow[PaymentExecution | None]:
    """Record one answer; None when somebody knew first."""
    try:
        (row,) = yield from _patiently(request.alone())
    except StatementFailed as failed:
        if failed.sqlstate != _NO_EDGE:
            raise
        before, after = request.item.before.status, request.item.after.status
        raise IllegalTransitionError(before.value, after.value) from failed
    return (yield from _settle_record(request, row))


def acquire(
    tenant_id: str, execution_id: object, owner: str, lease_s: float
) -> Flow[Acquired | None]:
    """Take a lease that nobody holds."""
    found = yield from _patiently(
        _ACQUIRE(
            {
                "tenant_id": tenant_id,
                "execution_id": str(execution_id),
                "lease_owner": owner,
                "lease_s": rows.seconds(lease_s),
            }
        )
    )
    return Acquired(rows.execution_of(found[0]), rows.instant(found[0]["at"])) if found else None


def mark_sent(execution: PaymentExecution, lease_s: float) -> Flow[PaymentExecution | None]:
    """Commit a send mark, for the holder of the lease."""
    query = _MARK_SENT({**_held(execution), "lease_s": rows.seconds(lease_s)})
    found = yield from _patiently(query)
    return rows.sent(execution, found[0], lease_s) if found else None


def reschedule(execution: PaymentExecution, next_check_s: float) -> Flow[bool]:
    """Give the lease back, for its holder."""
    query = _RESCHEDULE({**_held(execution), "next_check_s": rows.seconds(next_check_s)})
    return bool((yield from _patiently(query)))


def acquire_due(due: Due) -> Flow[Sequence[Acquired]]:
    """Take the leases of what is due, those due longest first."""
    found = yield from _patiently(_ACQUIRE_DUE(rows.due_parameters(due)))
    by_age = sorted(found, key=lambda row: (row["due_at"], row["execution_id"]))
    return [Acquired(rows.execution_of(row), rows.instant(row["at"])) for row in by_age]


def put_back(execution: PaymentExecution, next_check_s: float) -> Flow[bool]:
    """Count out a refused send and give the lease back, for its holder."""
    query = _PUT_BACK({**_held(execution), "next_check_s": rows.seconds(next_check_s)})
    return bool((yield from _patiently(query)))


def note(execution: PaymentExecution, discrepancy: Discrepancy, event: EventDraft) -> Flow[bool]:
    """Keep a contradiction, once."""
    query = _DISCREPANCY(rows.note_parameters(execution, discrepancy, event))
    (row,) = yield from _patiently(query)
    if row["verdict"] == "unknown":
        raise ExecutionNotFoundError(execution.tenant_id, execution.execution_id)
    return bool(row["verdict"] == "recorded")


def note_orphan(orphan: Orphan, event: EventDraft) -> Flow[bool]:
    """Keep a charge that nobody asked for, once."""
    (row,) = yield from _patiently(_ORPHAN(rows.orphan_parameters(orphan, event)))
    return bool(row["verdict"] == "recorded")


def discrepancy(tenant_id: str, discrepancy_id: object) -> Flow[NotedDiscrepancy | None]:
    """Read a discrepancy by its id."""
    name = {"tenant_id": tenant_id, "discrepancy_id": str(discrepancy_id)}
    found = yield _DISCREPANCY_BY_ID(name)
    return rows.noted_of(found[0]) if found else None


def list_discrepancies(
    tenant_id: str | None, limit: int, *, open_only: bool
) -> Flow[Sequence[NotedDiscrepancy]]:
    """Read discrepancies, the oldest first."""
    only = "true" if open_only else "false"
    found = yield _DISCREPANCIES({"tenant_id": tenant_id, "limit": str(limit), "open": only})
    return [rows.noted_of(row) for row in found]


def discrepancies_of(tenant_id: str, payment_id: str) -> Flow[Sequence[NotedDiscrepancy]]:
    """Read the discrepancies of a payment, the oldest first."""
    found = yield _DISCREPANCIES_OF({"tenant_id": tenant_id, "payment_id": payment_id})
    return [rows.noted_of(row) for row in found]


def waiting_for_review(tenant_id: str | None, limit: int) -> Flow[Sequence[PaymentExecution]]:
    """Read executions that wait for a person, the oldest first."""
    found = yield _WAITING_FOR_REVIEW({"tenant_id": tenant_id, "limit": str(limit)})
    return [rows.execution_of(row) for row in found]


def resolve(resolving: Resolving) -> Flow[ResolveOutcome]:
    """
    End a discrepancy and book its money, in one transaction; again when it lost a race.

    A place that a guard refuses has ended the transaction: the next one begins another.
    """
    try:
        return (yield from _resolve_patiently(resolving))
    except StatementFailed as failed:
        if VERDICT_OF_CONSTRAINT.get(failed.constraint) not in _NO_ROOM:
            raise
    places = resolving.adoptions[1:]
    if not places:
        return ResolveOutcome(ResolveVerdict.REFUSED)
    return (yield from resolve(attrs.evolve(resolving, adoptions=places)))


def _resolve_patiently(resolving: Resolving) -> Flow[ResolveOutcome]:
    for _ in range(ATTEMPTS - 1):
        try:
            return (yield from _resolve(resolving))
        except StatementFailed as failed:
            if not _is_passing(failed):
                raise
    return (yield from _resolve(resolving))


def _resolve(resolving: Resolving) -> Flow[ResolveOutcome]:
    yield _BEGIN({})
    try:
        outcome = yield from _resolve_inside(resolving)
    except StatementFailed:
        yield _ROLLBACK({})
        raise
    yield (_COMMIT if outcome.verdict is ResolveVerdict.RESOLVED else _ROLLBACK)({})
    return outcome


def _resolve_inside(resolving: Resolving) -> Flow[ResolveOutcome]:
    noted = resolving.noted
    name = {"tenant_id": noted.tenant_id, "discrepancy_id": str(noted.discrepancy_id)}
    found = yield _DISCREPANCY_LOCK(name)
    if not found:
        return ResolveOutcome(ResolveVerdict.UNKNOWN)
    if found[0]["resolved_at"] is not None:
        return ResolveOutcome(ResolveVerdict.ALREADY, rows.noted_of(found[0]))
    if resolving.ends is not None and not (yield from _is_recorded(resolving.ends)):
        return ResolveOutcome(ResolveVerdict.MOVED)
    (head,) = yield _HEAD_LOCK(name)
    settled_minor = 0
    if resolving.adoptions:
        adopted = yield from _adopt(resolving, head["disputed"])
        if adopted is None:
            return ResolveOutcome(ResolveVerdict.REFUSED)
        if not (yield from _is_booked_once(adopted)):
            return ResolveOutcome(ResolveVerdict.BOOKED)
        settled_minor = _settled_minor(resolving, adopted, head["disputed"])
    if resolving.refund is not None and not (yield from _is_claimed(resolving.refund)):
        return ResolveOutcome(ResolveVerdict.REFUSED)
    yield _RESOLVE(rows.resolve_parameters(resolving, settled_minor))
    stored = yield _DISCREPANCY_BY_ID(name)
    return ResolveOutcome(ResolveVerdict.RESOLVED, rows.noted_of(stored[0]))


def _adopt(resolving: Resolving, disputed_minor: int) -> Flow[Adoption | None]:
    """Book money where there is room, and return where; what else is in doubt takes none of it."""
    for adoption in resolving.adoptions:
        settles_minor = _settled_minor(resolving, adoption, disputed_minor)
        if (yield from _is_claimed(adoption.claim, settles_minor)):
            is_done = yield from _is_recorded(adoption.recording)
            if is_done and adoption.refund is not None:
                is_done = yield from _is_claimed(adoption.refund)
            return adoption if is_done else None
    return None


def _settled_minor(resolving: Resolving, adoption: Adoption, disputed_minor: int) -> int:
    """Return what an adoption takes off its head: money on account has a head of its own."""
    is_own = adoption.claim.execution.payment_id == resolving.noted.payment_id
    is_collecting = not adoption.claim.execution.operation.follows_a_parent
    return disputed_minor if is_own and is_collecting else 0


def _is_booked_once(adoption: Adoption) -> Flow[bool]:
    """Return whether nothing else has what the provider calls by this reference."""
    if not adoption.is_named:
        return True
    execution = adoption.claim.execution
    name = {"tenant_id": execution.tenant_id, "execution_id": str(execution.execution_id)}
    return bool((yield _BOOK_ADOPTED(name)))


def _is_claimed(claim: Claim, settles_minor: int = 0) -> Flow[bool]:
    request = claim_request(claim)
    request.parameters["settles_minor"] = str(settles_minor)
    (row,) = yield request.alone()
    return bool(row["verdict"] == ClaimVerdict.CLAIMED)


def _is_recorded(recording: Recording) -> Flow[bool]:
    (row,) = yield record_request(recording).alone()
    return bool(row["verdict"] == "recorded")


def get(tenant_id: str, execution_id: object) -> Flow[PaymentExecution | None]:
    """Read an execution by its id."""
    found = yield _BY_ID({"tenant_id": tenant_id, "execution_id": str(execution_id)})
    return rows.execution_of(found[0]) if found else None


def find(tenant_id: str, idempotency_key: str) -> Flow[PaymentExecution | None]:
    """Read an execution by its key."""
    found = yield _BY_KEY({"tenant_id": tenant_id, "idempotency_key": idempotency_key})
    return rows.execution_of(found[0]) if found else None


def find_named(sought: Sought) -> Flow[Sequence[PaymentExecution]]:
    """Read the executions of an account by their name at the provider, at most two."""
    found = yield _BY_NAME(
        {
            "tenant_id": sought.tenant_id,
            "provider": sought.provider,
            "account": sought.account,
            "provider_key": sought.provider_key,
            "reference": rows.kept(sought.reference),
            "provider_ref": rows.kept(sought.provider_ref),
        }
    )
    best = min((row["by"] for row in found), default=0)
    return [rows.execution_of(row) for row in found if row["by"] == best][:2]


def executions(tenant_id: str, payment_id: str) -> Flow[Sequence[PaymentExecution]]:
    """Read the executions of a payment, oldest first."""
    found = yield _OF_PAYMENT({"tenant_id": tenant_id, "payment_id": payment_id})
    return [rows.execution_of(row) for row in found]


def open_executions(limit: int) -> Flow[Sequence[PaymentExecution]]:
    """Read open executions of all tenants, the one due first first."""
    found = yield _OPEN({"tenant_id": None, "limit": str(limit)})
    return [rows.execution_of(row) for row in found]


def payment(tenant_id: str, payment_id: str) -> Flow[PaymentView | None]:
    """Read the sums of a payment."""
    found = yield _PAYMENT({"tenant_id": tenant_id, "payment_id": payment_id})
    return rows.payment_of(found[0]) if found else None


def events(tenant_id: str, payment_id: str) -> Flow[Sequence[JournalEvent]]:
    """Read the events of a payment, in order."""
    found = yield _EVENTS(
        {"tenant_id": tenant_id, "payment_id": payment_id, "after_seq": "0", "limit": None}
    )
    return [rows.event_of(row) for row in found]


def verify() -> Flow[None]:
    """Check that waits are bounded, that the fences stand and that the server takes writes."""
    (row,) = yield _SESSION({})
    for problem in _problems(row):
        raise problem


@attrs.frozen(eq=False)
class Member(Generic[Item, Result]):
    """A request in a shared statement, and who is told what became of it, once."""

    request: Request[Item]
    deliver: Callable[[Result | RailcoreError], None]


@attrs.frozen
class Sharing(Generic[Item, Result]):
    """
    How requests of one kind share a statement.

    Attributes:
        many: The set-based statement.
        done: The verdict of a member that was written.
        alone: The flow of one request by itself.
        settle: The flow that turns a member's row into its result.
    """

    many: Template
    done: str
    alone: Callable[[Request[Item]], Flow[Result]]
    settle: Callable[[Request[Item], Row], Flow[Result]]


def share(
    sharing: Sharing[Item, Result], members: Sequence[Member[Item, Result]]
) -> Flow[Sequence[Member[Item, Result]]]:
    """Write *members*, one a payment, in one statement; return those for the next statement."""
    if len(members) == 1:
        return (yield from _one_by_one(sharing, members))
    try:
        answers = yield sharing.many({"items": _items(members)})
    except StatementFailed:
        return (yield from _one_by_one(sharing, members))
    except StoreError as lost:
        for member in members:
            member.deliver(same(lost))
        return ()
    return (yield from _settle(sharing, members, answers))


def share_all(
    sharing: Sharing[Item, Result], members: Sequence[Member[Item, Result]], size: int
) -> Flow[None]:
    """Write all *members*, at most *size* in one statement."""
    waiting = deque(members)
    while waiting:
        again = yield from share(sharing, take(waiting, size))
        waiting.extendleft(reversed(again))


def take(waiting: deque[Member[Item, Result]], size: int) -> list[Member[Item, Result]]:
    """Remove and return up to *size* members, the first of each payment; the rest stay put."""
    taken: list[Member[Item, Result]] = []
    left: list[Member[Item, Result]] = []
    payments = set[object]()
    while waiting and len(taken) < size:
        member = waiting.popleft()
        payment_id = member.request.payment
        (left if payment_id in payments else taken).append(member)
        payments.add(payment_id)
    waiting.extendleft(reversed(left))
    return taken


def _settle(
    sharing: Sharing[Item, Result],
    members: Sequence[Member[Item, Result]],
    answers: Sequence[Row],
) -> Flow[Sequence[Member[Item, Result]]]:
    """Tell first those who need no further statement, last those who wait for another."""
    again, busy = [], []
    for row in sorted(answers, key=lambda row: row["verdict"] != sharing.done):
        member = members[row["ord"]]
        if row["verdict"] == _AGAIN:
            again.append(member)
        elif row["verdict"] == _BUSY:
            busy.append(member)
        else:
            try:
                member.deliver((yield from sharing.settle(member.request, row)))
            except RailcoreError as error:
                member.deliver(error)
    yield from _one_by_one(sharing, busy)
    return again


def _one_by_one(
    sharing: Sharing[Item, Result], members: Sequence[Member[Item, Result]]
) -> Flow[Sequence[Member[Item, Result]]]:
    for member in members:
        try:
            member.deliver((yield from sharing.alone(member.request)))
        except RailcoreError as error:
            member.deliver(error)
    return ()


def same(lost: StoreError) -> StoreError:
    """Return an exception of its own for one member, so that tracebacks stay apart."""
    error = StoreError(lost.problem, may_have_committed=lost.may_have_committed)
    error.__cause__ = lost.__cause__
    return error


def _items(members: Sequence[Member[Item, Result]]) -> str:
    return rows.items([member.request.parameters for member in members])


def patiently(query: Query) -> Flow[Sequence[Row]]:
    """Ask up to three times what another transaction was in the way of."""
    return (yield from _patiently(query))


def _patiently(query: Query) -> Flow[Sequence[Row]]:
    """Ask up to three times what another transaction was in the way of."""
    for _ in range(ATTEMPTS - 1):
        try:
            return (yield query)
        except StatementFailed as failed:
            if not _is_passing(failed):
                raise
    return (yield query)


def _settle_claim(request: Request[Claim], row: Row) -> Flow[ClaimOutcome]:
    if row["verdict"] == ClaimVerdict.CLAIMED:
        return ClaimOutcome(ClaimVerdict.CLAIMED, rows.claimed(request.item, row["at"]))
    return (yield from _not_claimed(request.item, ClaimVerdict(row["verdict"])))


def _not_claimed(claim: Claim, verdict: ClaimVerdict) -> Flow[ClaimOutcome]:
    execution = claim.execution
    stored = yield from find(execution.tenant_id, execution.idempotency_key)
    if stored is not None:
        return ClaimOutcome(ClaimVerdict.DUPLICATE, stored)
    if verdict is ClaimVerdict.DUPLICATE:
        problem = f"claim: the id {execution.execution_id} is taken by another key; make a new one"
        raise StoreError(problem, may_have_committed=False)
    if verdict is not ClaimVerdict.LIVE:
        return ClaimOutcome(verdict)
    others = yield from executions(execution.tenant_id, execution.payment_id)
    return ClaimOutcome(verdict, in_the_way(others))


def _settle_record(request: Request[Recording], row: Row) -> Flow[PaymentExecution | None]:
    if row["verdict"] != "recorded":
        return None
    if row["held"]:
        return rows.recorded(request.item, row["at"])
    before = request.item.before
    return (yield from get(before.tenant_id, before.execution_id))


def _verdict_of(failed: StatementFailed, execution: PaymentExecution) -> str:
    """Return what an error of a claim means; raise it when it is nobody else's doing."""
    if failed.sqlstate == _LOCKED:
        raise _in_progress(execution) from failed
    if failed.sqlstate in _LOST_A_RACE:
        return _AGAIN
    verdict = VERDICT_OF_CONSTRAINT.get(failed.constraint)
    if verdict is None:
        raise failed
    return verdict


def _is_passing(failed: StatementFailed) -> bool:
    """Return whether what failed this way may succeed when it is run again."""
    lost_a_race = failed.sqlstate in _LOST_A_RACE or failed.sqlstate == _LOCKED
    return lost_a_race or VERDICT_OF_CONSTRAINT.get(failed.constraint) == _AGAIN


def _in_progress(execution: PaymentExecution) -> InProgressError:
    return InProgressError(f"payment {execution.payment_id!r}", RETRY_AFTER)


def _held(execution: PaymentExecution) -> Parameters:
    return {
        "tenant_id": execution.tenant_id,
        "execution_id": str(execution.execution_id),
        "token": str(execution.lease.token),
        "lease_owner": execution.lease.owner,
    }


def _problems(row: Row) -> Iterator[MisconfiguredError]:
    if row["standby"]:
        yield MisconfiguredError(
            "database", "the server is a standby and takes no writes", "Connect to the primary"
        )
    for name, bound in _BOUNDS.items():
        if row[name] == "0":
            problem = f"{name} is 0 for {row['role']}: a forgotten transaction would block payments"
            remedy = f"ALTER ROLE {row['role']} SET {name} = '{bound}', or run roles.sql"
            yield MisconfiguredError("database", problem, remedy)
    missing = sorted(FENCES - set(row["fences"]))
    if missing:
        problem = f"missing or not enabled ALWAYS: triggers {', '.join(missing)}"
        yield MisconfiguredError("database", problem, "Install or migrate the schema")


_BOUNDS: Final = {"lock_timeout": "500ms", "idle_in_transaction_session_timeout": "5s"}

FENCES: Final = frozenset(
    f"{table}.{fence}"
    for table, fence in re.findall(r"alter table (\w+) enable always trigger (\w+)", read("schema"))
)

CLAIMS: Final[Sharing[Claim, ClaimOutcome]] = Sharing(
    _CLAIM_MANY, ClaimVerdict.CLAIMED, claim, _settle_claim
)
RECORDS: Final[Sharing[Recording, PaymentExecution | None]] = Sharing(
    _RECORD_MANY, "recorded", record, _settle_record
)

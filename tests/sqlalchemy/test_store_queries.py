"""What the flows of the store decide, told as dialogues: no database takes part."""

from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from railcore.errors import (
    IllegalTransitionError,
    InProgressError,
    InvalidValueError,
    MisconfiguredError,
    StoreError,
)
from railcore.protocol import ClaimOutcome, ClaimVerdict
from railcore.testing.contracts.execution_store import (
    asked,
    claim_of,
    recording_of,
    success_of,
)
from railcore_sqlalchemy import queries, rows
from railcore_sqlalchemy.driver import Query, StatementFailed
from railcore_sqlalchemy.queries import CLAIMS, Flow, Member

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CLAIMED = {"verdict": "claimed", "seq": 1, "at": AT}
RECORDED = {"verdict": "recorded", "seq": 2, "held": True, "at": AT}
LOST = StoreError("claim: server closed the connection", may_have_committed=True)


def failed(sqlstate: str, constraint: str = "") -> StatementFailed:
    return StatementFailed("no", may_have_committed=False, sqlstate=sqlstate, constraint=constraint)


class Talk:
    """Answers a flow from a list: rows are sent, errors are thrown."""

    def __init__(self, flow: Flow[Any], *answers: Sequence[dict[str, Any]] | Exception) -> None:
        self.asked: list[Query] = []
        self.result: Any = None
        reply: Any = None
        try:
            self.asked.append(next(flow))
            for reply in answers:
                thrown = isinstance(reply, Exception)
                self.asked.append(flow.throw(reply) if thrown else flow.send(reply))
        except StopIteration as end:
            self.result = end.value

    @property
    def names(self) -> list[str]:
        return [query.template.name for query in self.asked]


CLAIM = claim_of(asked("k1"))
EXECUTION = rows.claimed(CLAIM, AT)
STORED: dict[str, Any] = {
    "execution_id": EXECUTION.execution_id,
    "tenant_id": "tenant-1",
    "payment_id": "invoice-1",
    "idempotency_key": "k1",
    "operation": "charge",
    "amount_minor": 100,
    "currency": "SAR",
    "payment_option_key": "card.mada",
    "parent_execution_id": None,
    "request": {},
    "rail": "card_psp",
    "provider": "stub",
    "account": "main",
    "mode": "sandbox",
    "status": "processing",
    "version": 1,
    "phase": 0,
    "progress": 0,
    "lease_owner": "me",
    "lease_token": 1,
    "lease_until": EXECUTION.lease.until,
    "send_count": 1,
    "refused_count": 0,
    "first_sent_at": AT,
    "last_sent_at": AT,
    "next_check_at": EXECUTION.next_check_at,
    "check_count": 0,
    "created_at": AT,
    "updated_at": AT,
    **dict.fromkeys(
        (
            "pending_reason",
            "failure_code",
            "cause_code",
            "provider_ref",
            "settled_minor",
            "next_action",
            "expires_at",
            "provider_response",
        )
    ),
}


def claiming(*answers: Sequence[dict[str, Any]] | Exception) -> Talk:
    return Talk(queries.claim(queries.claim_request(CLAIM)), *answers)


def recording(*answers: Sequence[dict[str, Any]] | Exception) -> Talk:
    request = queries.record_request(recording_of(EXECUTION, success_of(EXECUTION)))
    return Talk(queries.record(request), *answers)


@pytest.mark.parametrize("sqlstate", ["40P01", "40001"])
def test_ir6_a_lost_race_is_claimed_again(sqlstate: str) -> None:
    talk = claiming(failed(sqlstate), failed(sqlstate), [CLAIMED])

    assert talk.names == ["claim"] * 3
    assert talk.result == ClaimOutcome(ClaimVerdict.CLAIMED, EXECUTION)


def test_ir6_the_third_lost_race_is_in_progress_elsewhere() -> None:
    with pytest.raises(InProgressError) as raised:
        claiming(*[failed("40P01")] * 3)

    assert raised.value.retry_after.total_seconds() > 0


def test_a_lock_that_is_not_given_is_in_progress_elsewhere() -> None:
    with pytest.raises(InProgressError):
        claiming(failed("55P03"))


@pytest.mark.parametrize(
    ("constraint", "verdict"),
    [("due_limit", ClaimVerdict.LIVE), ("capture_limit", ClaimVerdict.LIMIT)],
)
def test_a_limit_met_by_another_is_that_verdict(constraint: str, verdict: ClaimVerdict) -> None:
    talk = claiming(failed("23514", constraint), [], [STORED])

    assert talk.names[:2] == ["claim", "execution_by_key"]
    others = [] if verdict is ClaimVerdict.LIMIT else ["executions_of_payment"]
    assert talk.names[2:] == others


@pytest.mark.parametrize("refusal", ["live", "limit", "currency", "moved", "no_payment"])
def test_a_refusal_is_believed_only_after_the_key_was_read(refusal: str) -> None:
    talk = claiming([{"verdict": refusal, "seq": None, "at": AT}], [STORED])

    assert talk.names == ["claim", "execution_by_key"]
    assert talk.result == ClaimOutcome(ClaimVerdict.DUPLICATE, EXECUTION)


def test_a_live_execution_is_named() -> None:
    talk = claiming([{"verdict": "live", "seq": None, "at": AT}], [], [STORED])

    assert talk.result == ClaimOutcome(ClaimVerdict.LIVE, EXECUTION)


def test_an_id_that_another_key_took_is_no_duplicate() -> None:
    with pytest.raises(StoreError, match="make a new one") as raised:
        claiming([{"verdict": "duplicate", "seq": None, "at": AT}], [])

    assert not raised.value.may_have_committed


def test_a_mistake_of_the_caller_is_not_tried_again() -> None:
    with pytest.raises(StatementFailed):
        claiming(failed("23514", "amount_is_positive"))


def test_a_connection_lost_in_a_claim_leaves_its_doubt() -> None:
    with pytest.raises(StoreError) as raised:
        claiming(LOST)

    assert raised.value is LOST


@pytest.mark.parametrize("sqlstate", ["40P01", "40001", "55P03"])
def test_an_answer_is_recorded_at_the_third_try(sqlstate: str) -> None:
    talk = recording(failed(sqlstate), failed(sqlstate), [RECORDED])

    assert talk.names == ["record"] * 3
    assert talk.result.version == 2


def test_an_answer_that_cannot_be_recorded_says_so() -> None:
    with pytest.raises(StoreError) as raised:
        recording(*[failed("55P03")] * 3)

    assert not raised.value.may_have_committed


def test_a_change_that_is_no_edge_is_named() -> None:
    with pytest.raises(IllegalTransitionError):
        recording(failed("RC002"))


def test_what_somebody_else_holds_is_read_back() -> None:
    talk = recording([{**RECORDED, "held": False}], [STORED])

    assert talk.names == ["record", "execution_by_id"]
    assert talk.result == EXECUTION


def test_an_event_that_is_no_json_stays_with_its_caller() -> None:
    event = attrs.evolve(CLAIM.event, payload={"when": AT})

    with pytest.raises(InvalidValueError, match="payload"):
        queries.claim_request(attrs.evolve(CLAIM, event=event))


# Shared statements -------------------------------------------------------------------------------


class Told:
    """Members of a shared statement, and what each was told."""

    def __init__(self, *keys: str) -> None:
        self.outcomes: dict[str, Any] = {}
        self.members = [self._member(key) for key in keys]

    def _member(self, key: str) -> Member[Any, Any]:
        def deliver(outcome: object) -> None:
            assert key not in self.outcomes, "a member is told once"
            self.outcomes[key] = outcome

        context = asked(key, payment_id=key.rstrip("'"))
        return Member(queries.claim_request(claim_of(context)), deliver)


def row(ord_: int, verdict: str) -> dict[str, Any]:
    return {"ord": ord_, "verdict": verdict, "seq": 1, "at": AT}


def test_members_share_one_statement() -> None:
    told = Told("a", "b", "c")

    talk = Talk(queries.share(CLAIMS, told.members), [row(n, "claimed") for n in (2, 0, 1)])

    assert talk.names == ["claim_many"]
    claimed = {key: outcome.execution.idempotency_key for key, outcome in told.outcomes.items()}
    assert claimed == {"a": "a", "b": "b", "c": "c"}


def test_a_lone_member_takes_the_single_form() -> None:
    talk = Talk(queries.share(CLAIMS, Told("a").members), [CLAIMED])

    assert talk.names == ["claim"]


def test_members_of_a_refused_statement_go_one_by_one() -> None:
    told = Told("a", "b", "c")

    talk = Talk(
        queries.share(CLAIMS, told.members),
        failed("22003"),
        [CLAIMED],
        failed("22003"),
        [CLAIMED],
    )

    assert talk.names == ["claim_many", "claim", "claim", "claim"]
    assert told.outcomes["a"].verdict is told.outcomes["c"].verdict is ClaimVerdict.CLAIMED
    assert isinstance(told.outcomes["b"], StatementFailed)


def test_a_lost_connection_leaves_every_member_in_doubt() -> None:
    told = Told("a", "b")

    Talk(queries.share(CLAIMS, told.members), LOST)

    errors = list(told.outcomes.values())
    assert [error.may_have_committed for error in errors] == [True, True]
    assert errors[0] is not errors[1]


def test_a_member_to_be_tried_again_comes_back() -> None:
    told = Told("a", "b", "c")

    talk = Talk(
        queries.share(CLAIMS, told.members),
        [row(0, "claimed"), row(1, "again"), row(2, "claimed")],
    )

    assert talk.result == [told.members[1]]
    assert set(told.outcomes) == {"a", "c"}


def test_nobody_waits_for_a_member_whose_payment_is_held() -> None:
    told = Told("a", "b", "c")
    flow = queries.share(CLAIMS, told.members)

    next(flow)
    asked_next = flow.send([row(0, "busy"), row(1, "duplicate"), row(2, "claimed")])

    assert set(told.outcomes) == {"c"}
    assert asked_next.template.name == "execution_by_key"
    assert flow.send([STORED]).template.name == "claim"
    assert set(told.outcomes) == {"b", "c"}


def test_a_statement_takes_one_member_of_each_payment() -> None:
    told = Told("a", "a'", "b", "a''", "b'", "c")
    waiting = deque(told.members)

    def keys(members: Sequence[Member[Any, Any]]) -> list[str]:
        return [str(member.request.parameters["idempotency_key"]) for member in members]

    assert keys(queries.take(waiting, 64)) == ["a", "b", "c"]
    assert keys(queries.take(waiting, 1)) == ["a'"]
    assert keys(queries.take(waiting, 64)) == ["a''", "b'"]
    assert not waiting


def test_all_members_are_written_in_statements_of_the_given_size() -> None:
    told = Told("a", "b", "c", "d", "e")

    talk = Talk(
        queries.share_all(CLAIMS, told.members, 2),
        [row(0, "claimed"), row(1, "again")],
        [row(0, "claimed"), row(1, "claimed")],
        [row(0, "claimed"), row(1, "claimed")],
    )

    assert talk.names == ["claim_many"] * 3
    assert set(told.outcomes) == {"a", "b", "c", "d", "e"}


# The session -------------------------------------------------------------------------------------

FIT = {
    "role": "app",
    "lock_timeout": "500ms",
    "idle_in_transaction_session_timeout": "5s",
    "standby": False,
    "fences": list(queries.FENCES),
}


def test_a_fit_session_passes() -> None:
    assert Talk(queries.verify(), [FIT]).names == ["session"]


@pytest.mark.parametrize(
    ("found", "named"),
    [
        ({"lock_timeout": "0"}, "lock_timeout is 0 for app"),
        ({"idle_in_transaction_session_timeout": "0"}, "idle_in_transaction_session_timeout"),
        ({"standby": True}, "standby"),
        ({"fences": sorted(queries.FENCES)[1:]}, min(queries.FENCES)),
        ({"fences": []}, "railcore_execution.execution_update"),
    ],
)
def test_cf2_an_unfit_session_is_refused(found: dict[str, Any], named: str) -> None:
    with pytest.raises(MisconfiguredError, match=named):
        Talk(queries.verify(), [{**FIT, **found}])

"""The rules of the call protocol, at the exact second: before, at and after."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import attrs
import pytest

from railcore.enums import ExecutionStatus, Idempotency, Operation, PaymentRail, PendingReason
from railcore.errors import (
    CurrencyMismatchError,
    ExecutionNotFoundError,
    IdempotencyConflict,
    InDoubtError,
    InProgressError,
    InvalidValueError,
    LimitExceededError,
    LiveExecutionExists,
    MisconfiguredError,
    UnknownProviderError,
    UnsupportedOperationError,
)
from railcore.execution import Lease, PaymentExecution, PaymentView
from railcore.failures import PaymentFailureCode
from railcore.kernel import (
    AfterLookup,
    EngineSettings,
    Kernel,
    Record,
    Resend,
    Wait,
    absence_is_proof,
    check_leases,
    may_resend,
)
from railcore.lifecycle import FactSource, decide
from railcore.money import SAR, USD, Money
from railcore.protocol import ClaimOutcome, ClaimVerdict
from railcore.results import RailResult
from railcore.routing import ConfigDrivenRouteResolver, RouteCapabilities, TimingBounds
from tests.core.made import (
    ASKED,
    CAPABLE,
    ID,
    NOW,
    REDIRECT,
    TIMING,
    FakeClock,
    context,
    execution,
    unknown_execution,
)

STUB = (PaymentRail.CARD_PSP, "stub")
ROUTES = {
    "routes": {
        "cards": {"rail": "card_psp", "provider": "stub", "account": "main", "mode": "sandbox"}
    },
    "default_route": "cards",
}
PROVEN_AFTER_S = 5 + 120 + 60
RESEND_UNTIL_S = 600 - 5 - 120
TICK = timedelta(microseconds=1)
NETWORK_ERROR = RailResult.failed(PaymentFailureCode.NETWORK_ERROR)
OWN_TRY_CODES: list[Any] = sorted(
    code for code in PaymentFailureCode if code.is_definite and code.category != "permanent"
)
PROVIDERS_CODES: list[Any] = sorted(
    code for code in PaymentFailureCode if code.category == "permanent"
)


def kernel(can: RouteCapabilities = CAPABLE, clock: FakeClock | None = None) -> Kernel:
    offered = {STUB: can}
    return Kernel(
        routes=ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=offered),
        offered=offered,
        settings=EngineSettings(),
        clock=clock or FakeClock(),
        observer=None,
        new_id=lambda: ID,
    )


def without(**changes: Any) -> RouteCapabilities:
    return attrs.evolve(CAPABLE, **changes)


def sent(seconds_ago: float, **changes: Any) -> PaymentExecution:
    """An execution in doubt, sent once, so long ago."""
    at = NOW - timedelta(seconds=seconds_ago)
    return unknown_execution(first_sent_at=at, last_sent_at=at, **changes)


def absent(found: PaymentExecution, can: RouteCapabilities = CAPABLE) -> AfterLookup:
    return kernel(can).after_lookup(found, RailResult.absent(), NOW)


NOT_IDEMPOTENT = without(idempotency=Idempotency.NONE)


# R2: the send deadline ----------------------------------------------------------------------------


@pytest.mark.parametrize(("after_s", "passed"), [(0, False), (5, False), (5.000001, True)])
def test_a_request_may_leave_until_the_send_deadline(after_s: float, passed: bool) -> None:
    clock = FakeClock()
    deadline = kernel(clock=clock).send_by(TIMING)

    clock.advance(after_s)

    assert deadline.has_passed() is passed


def test_rc6_the_send_deadline_ignores_a_wall_clock_that_is_set_back() -> None:
    clock = FakeClock()
    deadline = kernel(clock=clock).send_by(TIMING)

    clock.at -= timedelta(hours=1)
    clock.monotonic_s += 6

    assert deadline.has_passed()


# R3: resending ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after_s", "allowed"),
    [
        (0, True),
        (RESEND_UNTIL_S - 0.000001, True),
        (RESEND_UNTIL_S, False),
        (RESEND_UNTIL_S + 0.000001, False),
        (10_000, False),
    ],
)
def test_a_request_is_repeated_only_well_inside_the_key_window(
    after_s: float, allowed: bool
) -> None:
    assert may_resend(sent(after_s), CAPABLE, NOW) is allowed


def test_the_window_begins_with_the_first_send() -> None:
    found = attrs.evolve(sent(RESEND_UNTIL_S), last_sent_at=NOW)

    assert not may_resend(found, CAPABLE, NOW)


def test_without_idempotency_nothing_is_repeated() -> None:
    assert not may_resend(sent(0), NOT_IDEMPOTENT, NOW)


def test_a_provider_that_never_forgets_may_be_asked_again_any_time() -> None:
    forever = without(timing=attrs.evolve(TIMING, key_window_s=None))

    assert may_resend(sent(10**8), forever, NOW)


def test_a_lookup_that_took_too_long_resends_nothing() -> None:
    found = sent(RESEND_UNTIL_S - 60)

    slow = kernel().after_lookup(found, RailResult.absent(), NOW, took_s=60)
    quick = kernel().after_lookup(found, RailResult.absent(), NOW, took_s=59)

    assert quick == Resend()
    assert slow != Resend()


def test_a_slow_lookup_proves_no_more_than_a_quick_one() -> None:
    found = sent(PROVEN_AFTER_S - 60)

    after = kernel(NOT_IDEMPOTENT).after_lookup(found, RailResult.absent(), NOW, took_s=3600)

    assert isinstance(after, Wait)


def test_absence_inside_the_window_is_resent() -> None:
    assert absent(sent(10)) == Resend()


def test_outside_the_window_absence_is_never_resent() -> None:
    assert not isinstance(absent(sent(RESEND_UNTIL_S)), Resend)


@pytest.mark.parametrize(
    "reason",
    [
        PendingReason.CUSTOMER_ACTION,
        PendingReason.AWAITING_FUNDS,
        PendingReason.PROVIDER_PROCESSING,
        PendingReason.MANUAL_REVIEW,
    ],
)
@pytest.mark.parametrize("after_s", [10, 10_000])
def test_what_the_provider_has_answered_is_neither_resent_nor_failed(
    reason: PendingReason, after_s: float
) -> None:
    found = sent(after_s, pending_reason=reason, cause=None)

    assert isinstance(absent(found), Wait)


# R4: silence --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after_s", "proven"),
    [
        (0, False),
        (PROVEN_AFTER_S - 0.000001, False),
        (PROVEN_AFTER_S, False),
        (PROVEN_AFTER_S + 0.000001, True),
    ],
)
def test_absence_proves_something_only_after_arrival_and_read_lag(
    after_s: float, proven: bool
) -> None:
    assert absence_is_proof(sent(after_s), NOT_IDEMPOTENT, NOW) is proven


def test_the_wait_begins_with_the_last_send() -> None:
    found = attrs.evolve(sent(10_000), last_sent_at=NOW - timedelta(seconds=PROVEN_AFTER_S))

    assert not absence_is_proof(found, NOT_IDEMPOTENT, NOW)


@pytest.mark.parametrize("left_out", ["send_deadline_s", "latest_arrival_s", "read_lag_s"])
def test_each_bound_postpones_the_proof(left_out: str) -> None:
    bounds = {"send_deadline_s": 0.0, "latest_arrival_s": 0.0, "read_lag_s": 0.0, left_out: 50.0}
    can = without(idempotency=Idempotency.NONE, timing=TimingBounds(**bounds))

    assert not absence_is_proof(sent(50), can, NOW)
    assert absence_is_proof(sent(50.1), can, NOW)


def test_a_lookup_that_is_not_authoritative_proves_nothing() -> None:
    hint = without(idempotency=Idempotency.NONE, lookup_is_authoritative=False)

    assert not absence_is_proof(sent(10**8), hint, NOW)


def test_what_the_provider_has_named_is_never_proven_absent() -> None:
    named = unknown_execution(provider_ref="ch_1")
    after = kernel(without(idempotency=Idempotency.NONE)).after_lookup(
        named, RailResult.absent(), NOW + timedelta(days=1)
    )

    assert isinstance(after, Wait)
    assert after.seconds > 0


def test_proven_absence_is_a_network_error() -> None:
    after = absent(sent(PROVEN_AFTER_S + 1), NOT_IDEMPOTENT)

    assert isinstance(after, Record)
    assert after.fact.result.failure is PaymentFailureCode.NETWORK_ERROR
    assert after.fact.is_fenced


def test_unproven_absence_waits_until_it_is_proven() -> None:
    assert absent(sent(100), NOT_IDEMPOTENT) == Wait(PROVEN_AFTER_S - 100)


def test_absence_that_proves_nothing_is_asked_again() -> None:
    hint = without(idempotency=Idempotency.NONE, lookup_is_authoritative=False)

    after = absent(sent(10**6), hint)

    assert isinstance(after, Wait)
    assert after.seconds > 0


@pytest.mark.parametrize("after_s", [0, PROVEN_AFTER_S - 1, PROVEN_AFTER_S])
@pytest.mark.parametrize("can", [NOT_IDEMPOTENT, without(lookup_is_authoritative=False)])
def test_absence_without_proof_never_fails_an_execution(
    after_s: float, can: RouteCapabilities
) -> None:
    for found in (sent(after_s), sent(after_s, status=ExecutionStatus.PROCESSING, **NO_REASON)):
        after = absent(found, can)
        if isinstance(after, Record):
            assert after.fact.result.failure is None


NO_REASON: dict[str, Any] = {"pending_reason": None, "cause": None, "version": 1}


def test_a_processing_execution_that_is_not_found_becomes_an_unknown() -> None:
    found = sent(1, status=ExecutionStatus.PROCESSING, **NO_REASON)

    after = absent(found, NOT_IDEMPOTENT)

    assert isinstance(after, Record)
    assert after.fact.result.pending_reason is PendingReason.OUTCOME_UNKNOWN


# R5: what an answer proves ------------------------------------------------------------------------


@pytest.mark.parametrize("code", OWN_TRY_CODES)
def test_the_first_try_may_fail_for_reasons_of_its_own(code: Any) -> None:
    fact = kernel().fact_of_answer(execution(send_count=1), RailResult.failed(code))

    assert (fact.result.failure, fact.is_fenced) == (code, True)


@pytest.mark.parametrize("code", OWN_TRY_CODES)
@pytest.mark.parametrize("send_count", [2, 3])
def test_a_repeated_try_says_nothing_about_the_first(code: Any, send_count: int) -> None:
    fact = kernel().fact_of_answer(execution(send_count=send_count), RailResult.failed(code))

    assert fact.result.pending_reason is PendingReason.OUTCOME_UNKNOWN
    assert not fact.is_fenced


@pytest.mark.parametrize("code", PROVIDERS_CODES)
@pytest.mark.parametrize("send_count", [1, 2])
def test_a_providers_refusal_counts_for_every_try(code: Any, send_count: int) -> None:
    fact = kernel().fact_of_answer(execution(send_count=send_count), RailResult.failed(code))

    assert (fact.result.failure, fact.is_fenced) == (code, False)


@pytest.mark.parametrize("send_count", [1, 2])
def test_a_success_counts_whoever_asked(send_count: int) -> None:
    fact = kernel().fact_of_answer(
        execution(send_count=send_count), RailResult.success("ch_1", ASKED)
    )

    assert not fact.is_fenced


@pytest.mark.parametrize("send_count", [1, 2])
def test_an_exception_proves_nothing(send_count: int) -> None:
    fact = kernel().fact_of_exception(execution(send_count=send_count))

    assert fact.result.cause is PaymentFailureCode.INTERNAL_ERROR
    assert fact.result.pending_reason is PendingReason.OUTCOME_UNKNOWN


def test_a_first_try_that_never_left_is_a_network_error() -> None:
    fact = kernel().fact_of_silence(execution(send_count=1))

    assert (fact.result, fact.is_fenced) == (NETWORK_ERROR, True)


def test_db2_a_first_try_that_never_left_proves_nothing_after_a_recovery() -> None:
    restored = attrs.evolve(kernel(), settings=EngineSettings(recovery_since=NOW))
    fact = restored.fact_of_silence(execution(send_count=1))

    assert fact.result.pending_reason is PendingReason.OUTCOME_UNKNOWN


def test_a_repeated_try_that_never_left_stays_unknown() -> None:
    fact = kernel().fact_of_silence(execution(send_count=2))

    assert fact.result.pending_reason is PendingReason.OUTCOME_UNKNOWN


# Lookups ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", OWN_TRY_CODES)
def test_a_lookup_that_fails_for_reasons_of_its_own_is_no_news(code: Any) -> None:
    after = kernel().after_lookup(sent(10), RailResult.failed(code), NOW)

    assert isinstance(after, Wait)


@pytest.mark.parametrize("code", OWN_TRY_CODES)
def test_a_lookup_that_fails_never_fails_a_processing_execution(code: Any) -> None:
    found = sent(10, status=ExecutionStatus.PROCESSING, **NO_REASON)

    after = kernel().after_lookup(found, RailResult.failed(code), NOW)

    assert isinstance(after, Record)
    assert after.fact.result.failure is None


@pytest.mark.parametrize("code", PROVIDERS_CODES)
def test_a_refusal_that_a_lookup_finds_is_news(code: Any) -> None:
    after = kernel().after_lookup(sent(10), RailResult.failed(code), NOW)

    assert isinstance(after, Record)
    assert (after.fact.result.failure, after.fact.source) == (code, FactSource.LOOKUP)


@pytest.mark.parametrize(
    "result",
    [
        RailResult.success("ch_1", ASKED),
        RailResult.pending(PendingReason.PROVIDER_PROCESSING),
        RailResult.pending(PendingReason.CUSTOMER_ACTION, next_action=REDIRECT),
    ],
    ids=["success", "processing", "customer action"],
)
def test_what_a_lookup_finds_is_news(result: RailResult) -> None:
    after = kernel().after_lookup(sent(10), result, NOW)

    assert isinstance(after, Record)
    assert after.fact.result is result


@pytest.mark.parametrize(
    "cause", [PaymentFailureCode.PROVIDER_TIMEOUT, PaymentFailureCode.INVALID_RESPONSE]
)
def test_a_lookup_without_an_answer_is_no_news(cause: Any) -> None:
    assert isinstance(kernel().after_lookup(sent(10), RailResult.unknown(cause), NOW), Wait)


def test_a_lookup_that_finds_nothing_new_is_repeated_ever_more_rarely() -> None:
    waits = [
        kernel().next_check_s(unknown_execution(check_count=count)) for count in range(0, 40, 3)
    ]

    assert waits == sorted(waits)
    assert waits[0] == 15
    assert waits[-1] == 86_400


@pytest.mark.parametrize("check_count", [0, 1, 40, 10_000])
def test_rc4_an_open_execution_is_looked_at_within_a_day(check_count: int) -> None:
    seconds = kernel().next_check_s(unknown_execution(check_count=check_count))

    assert 0 < seconds <= 86_400


def waiting(reason: PendingReason, **changes: Any) -> PaymentExecution:
    return unknown_execution(pending_reason=reason, cause=None, **changes)


@pytest.mark.parametrize("reason", [PendingReason.AWAITING_FUNDS, PendingReason.MANUAL_REVIEW])
def test_people_are_not_asked_every_minute(reason: PendingReason) -> None:
    assert kernel().next_check_s(waiting(reason)) == 86_400


def test_expiry_is_a_date_to_ask() -> None:
    found = waiting(PendingReason.AWAITING_FUNDS, expires_at=NOW + timedelta(seconds=900))

    assert kernel().next_check_s(found) == 900


def test_a_payer_who_is_quick_is_noticed_before_the_expiry() -> None:
    found = waiting(PendingReason.CUSTOMER_ACTION, expires_at=NOW + timedelta(seconds=900))

    assert kernel().next_check_s(found) == 15


def test_a_check_is_due_at_the_expiry_and_not_after_it() -> None:
    found = waiting(
        PendingReason.CUSTOMER_ACTION, check_count=20, expires_at=NOW + timedelta(seconds=900)
    )

    assert kernel().next_check_s(found) == 900


@pytest.mark.parametrize("count", [1, 4])
def test_after_the_expiry_looks_grow_rare_again(count: int) -> None:
    found = waiting(
        PendingReason.CUSTOMER_ACTION, check_count=count, expires_at=NOW - timedelta(seconds=1)
    )

    assert kernel().next_check_s(found) == 15 * 2 ** (count - 1)


# Planning -----------------------------------------------------------------------------------------


def payment(**changes: Any) -> PaymentView:
    values: dict[str, Any] = {
        "tenant_id": "acme",
        "payment_id": "inv-1",
        "currency": SAR,
        "seq": 2,
        "due_minor": 1250,
        "authorized_minor": 1250,
        "captured_minor": 1250,
    }
    return PaymentView(**{**values, **changes})


def refund(**changes: Any) -> Any:
    return context(
        idempotency_key="key-2", operation=Operation.REFUND, parent_execution_id=ID, **changes
    )


COMPLETED = execution(status=ExecutionStatus.COMPLETED, next_check_at=None)


def test_a_claim_is_unsent_news_of_version_one() -> None:
    claim = kernel().plan(context()).claim

    assert (claim.execution.status, claim.execution.version) == (ExecutionStatus.PROCESSING, 1)
    assert claim.event.payload["status"] == "processing"
    assert claim.event.payload["route"] == list(kernel().routes.resolve(context()).trace)


def test_a_follow_up_takes_the_parents_route() -> None:
    parent = attrs.evolve(COMPLETED, account="old-account")
    plan = kernel().plan_follow_up(refund(), parent, payment(), ())

    assert plan.claim.execution.account == "old-account"
    assert plan.claim.head_seq == 2


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (ExecutionStatus.PROCESSING, {}),
        (ExecutionStatus.PENDING, {"pending_reason": PendingReason.OUTCOME_UNKNOWN}),
        (ExecutionStatus.FAILED, {"failure": PaymentFailureCode.DECLINED, "next_check_at": None}),
    ],
)
def test_only_a_completed_parent_is_followed(
    status: ExecutionStatus, changes: dict[str, Any]
) -> None:
    parent = execution(status=status, **changes)

    error = InDoubtError if parent.is_open else UnsupportedOperationError
    with pytest.raises(error, match=str(ID) if parent.is_open else str(status)):
        kernel().plan_follow_up(refund(), parent, payment(), ())


@pytest.mark.parametrize(
    ("parent", "view"),
    [
        (None, payment()),
        (COMPLETED, None),
        (attrs.evolve(COMPLETED, context=context(payment_id="inv-2")), payment()),
    ],
)
def test_a_parent_of_another_payment_is_not_found(
    parent: PaymentExecution | None, view: PaymentView | None
) -> None:
    with pytest.raises(ExecutionNotFoundError, match=str(ID)):
        kernel().plan_follow_up(refund(), parent, view, ())


@pytest.mark.parametrize(
    ("amount", "view", "allowed"),
    [
        (1250, payment(), True),
        (1251, payment(), False),
        (1, payment(refunded_minor=1250), False),
        (251, payment(refunding_minor=1000), False),
        (250, payment(refunding_minor=1000), True),
    ],
)
def test_money_in_doubt_counts_against_the_limit(
    amount: int, view: PaymentView, allowed: bool
) -> None:
    asked = refund(money=Money(amount, SAR))
    if allowed:
        kernel().plan_follow_up(asked, COMPLETED, view, ())
    else:
        with pytest.raises(LimitExceededError, match="amounts in doubt counted"):
            kernel().plan_follow_up(asked, COMPLETED, view, ())


def test_a_follow_up_stays_in_the_payments_currency() -> None:
    with pytest.raises(CurrencyMismatchError, match="USD"):
        kernel().plan_follow_up(refund(money=Money(1, USD)), COMPLETED, payment(), ())


def test_a_follow_up_that_the_rail_cannot_do_is_refused() -> None:
    plain = without(operations=frozenset({Operation.CHARGE}))

    with pytest.raises(UnsupportedOperationError, match="refund"):
        kernel(plain).plan_follow_up(refund(), COMPLETED, payment(), ())


def test_a_rail_that_is_gone_is_named() -> None:
    with pytest.raises(UnknownProviderError, match="card_psp/gone; registered are: card_psp/stub"):
        kernel().capabilities(execution(provider="gone"))


# Known keys ---------------------------------------------------------------------------------------


def test_a_known_key_with_the_same_request_is_the_stored_execution() -> None:
    stored = execution()

    assert kernel().known(context(metadata={"a": "b"}), stored) is stored


def test_a_conflict_names_the_key_the_execution_and_the_difference() -> None:
    with pytest.raises(IdempotencyConflict) as error:
        kernel().known(context(money=Money(1251, SAR)), execution())

    assert error.value.differs_in == ("amount_minor", "due_minor")
    assert str(ID) in str(error.value)
    assert "'key-1'" in str(error.value)


@pytest.mark.parametrize(
    ("verdict", "error"),
    [
        (ClaimVerdict.LIVE, LiveExecutionExists),
        (ClaimVerdict.LIMIT, LimitExceededError),
        (ClaimVerdict.NO_PAYMENT, LimitExceededError),
        (ClaimVerdict.CURRENCY, CurrencyMismatchError),
        (ClaimVerdict.MOVED, InProgressError),
    ],
)
def test_a_refused_claim_is_a_typed_error(verdict: ClaimVerdict, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"Nothing was sent|is not held in"):
        kernel().not_claimed(context(), ClaimOutcome(verdict))


def test_a_refusal_for_a_live_execution_names_it() -> None:
    outcome = ClaimOutcome(ClaimVerdict.LIVE, execution(execution_id=UUID(int=7)))

    with pytest.raises(LiveExecutionExists, match=str(UUID(int=7))):
        kernel().not_claimed(context(), outcome)


# Recording ----------------------------------------------------------------------------------------


def test_no_change_is_no_recording() -> None:
    fact = kernel().fact_of_answer(execution(), RailResult.success("ch_1", ASKED))
    done = attrs.evolve(COMPLETED, provider_ref="ch_1")

    assert kernel().recording(done, fact, decide(done, fact)) is None


@pytest.mark.parametrize("result", [NETWORK_ERROR, RailResult.success("ch_1", ASKED)])
def test_only_what_speaks_for_ones_own_try_is_fenced(result: RailResult) -> None:
    fact = kernel().fact_of_answer(execution(), result)
    recording = kernel().recording(execution(), fact, decide(execution(), fact))

    assert recording is not None
    assert recording.is_fenced is (result is NETWORK_ERROR)


# Leases -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lease_s", "is_refused"), [(34.9, True), (35, True), (35.1, False)])
def test_a_lease_outlasts_the_call(lease_s: float, is_refused: bool) -> None:
    settings = EngineSettings(lease_s=lease_s)
    if is_refused:
        wanted = (
            r"lease_s = \S+ is not above send deadline \+ answer timeout = 35 s of card_psp/stub"
        )
        with pytest.raises(MisconfiguredError, match=wanted):
            check_leases({STUB: CAPABLE}, settings)
    else:
        check_leases({STUB: CAPABLE}, settings)


@pytest.mark.parametrize(
    "changes",
    [
        {"owner": ""},
        {"owner": "a b"},
        {"owner": None},
        {"lease_s": -1},
        {"lease_s": float("nan")},
        {"lease_s": float("inf")},
        {"first_check_s": True},
        {"last_check_s": "1"},
        {"first_check_s": 10.0, "last_check_s": 5.0},
        {"first_check_s": 0.0},
    ],
    ids=str,
)
def test_settings_are_what_they_say(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        EngineSettings(**changes)


@pytest.mark.parametrize(
    "values", [("a b", 1, None), ("me", -1, None), ("me", True, None), ("me", 1, "now")]
)
def test_a_lease_is_what_it_says(values: tuple[Any, Any, Any]) -> None:
    with pytest.raises(InvalidValueError):
        Lease(*values)

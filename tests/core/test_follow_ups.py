"""Captures, voids and refunds: what route, limits and doubt allow, in both colours of engine."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import pytest

from railcore.context import PaymentContext
from railcore.enums import ExecutionStatus, Operation, PaymentRail, PendingReason
from railcore.errors import (
    InDoubtError,
    InProgressError,
    LimitExceededError,
    LiveExecutionExists,
    MisconfiguredError,
    RefusedError,
    RouteNotFoundError,
    UnsupportedOperationError,
)
from railcore.execution import PaymentExecution, PaymentView
from railcore.failures import PaymentFailureCode
from railcore.money import SAR, USD, Money
from railcore.results import RailResult
from railcore.routing import ConfigDrivenRouteResolver, Resolution, RouteCapabilities
from tests.core.hosts import COLOURS, ROUTES, Host, succeed
from tests.core.made import CAPABLE, context

COMPLETED, PENDING = ExecutionStatus.COMPLETED, ExecutionStatus.PENDING
TIMEOUT = RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)
DECLINED = RailResult.failed(PaymentFailureCode.DECLINED)
PROCESSING = RailResult.pending(PendingReason.PROVIDER_PROCESSING, provider_ref="re_1")
OFFERED = {(PaymentRail.CARD_PSP, "stub"): CAPABLE}
CAPTURE, VOID, REFUND = Operation.CAPTURE, Operation.VOID, Operation.REFUND


@pytest.fixture(params=COLOURS)
def host(request: pytest.FixtureRequest) -> Host:
    return Host(request.param)


def always(result: RailResult) -> Any:
    return lambda _: result


def able(host: Host, **changes: Any) -> None:
    """Let the host's rail declare this instead."""
    host.rail.capabilities = attrs.evolve(CAPABLE, **changes)
    host.restart()


def charge(host: Host, minor: int = 100, **changes: Any) -> PaymentExecution:
    done = host.execute(context(money=Money(minor, SAR), **changes))
    assert done.status is COMPLETED
    return done


def hold(host: Host, minor: int = 100, **changes: Any) -> PaymentExecution:
    return charge(host, minor, operation=Operation.AUTHORIZE, **changes)


def asked(
    operation: Operation, parent: PaymentExecution, minor: int, key: str, **changes: Any
) -> PaymentContext:
    return context(
        idempotency_key=key,
        operation=operation,
        parent_execution_id=parent.execution_id,
        money=Money(minor, SAR),
        **changes,
    )


def sums(host: Host) -> PaymentView:
    payment = host.store.payment("acme", "inv-1")
    assert payment is not None
    return payment


# The route ----------------------------------------------------------------------------------------


def test_a_route_without_partial_captures_takes_the_whole(host: Host) -> None:
    able(host, partial_capture=False)
    parent = hold(host)

    with pytest.raises(UnsupportedOperationError, match=r"capture of 99 of 100 .*whole amount"):
        host.execute(asked(CAPTURE, parent, 99, "c1"))
    assert host.execute(asked(CAPTURE, parent, 100, "c1")).status is COMPLETED


def test_a_route_without_several_captures_takes_one(host: Host) -> None:
    able(host, multiple_capture=False)
    parent = hold(host)
    host.execute(asked(CAPTURE, parent, 60, "c1"))

    with pytest.raises(UnsupportedOperationError, match="a second capture; it offers one capture"):
        host.execute(asked(CAPTURE, parent, 40, "c2"))
    assert host.execute(asked(VOID, parent, 40, "v1")).status is COMPLETED


def test_a_capture_that_failed_is_none(host: Host) -> None:
    able(host, multiple_capture=False)
    parent = hold(host)
    host.rail.answer = always(DECLINED)
    host.execute(asked(CAPTURE, parent, 60, "c1"))
    host.rail.answer = succeed

    assert host.execute(asked(CAPTURE, parent, 60, "c2")).status is COMPLETED


def test_each_authorization_is_captured_once(host: Host) -> None:
    able(host, multiple_capture=False)
    first, second = (hold(host, idempotency_key=k, due=Money(200, SAR)) for k in ("a1", "a2"))
    host.execute(asked(CAPTURE, first, 60, "c1"))

    assert host.execute(asked(CAPTURE, second, 60, "c2")).status is COMPLETED


def test_a_route_without_partial_refunds_gives_all_back(host: Host) -> None:
    able(host, partial_refund=False)
    parent = charge(host)

    with pytest.raises(UnsupportedOperationError, match=r"refund of 99 of 100 .*whole amount"):
        host.execute(asked(REFUND, parent, 99, "r1"))
    assert host.execute(asked(REFUND, parent, 100, "r1")).status is COMPLETED


def test_all_of_an_authorization_is_what_was_captured_of_it(host: Host) -> None:
    able(host, partial_refund=False)
    parent = hold(host)
    host.execute(asked(CAPTURE, parent, 60, "c1"))

    with pytest.raises(UnsupportedOperationError, match="refund of 59 of 60 "):
        host.execute(asked(REFUND, parent, 59, "r1"))
    assert host.execute(asked(REFUND, parent, 60, "r1")).status is COMPLETED


def test_a_route_without_several_refunds_gives_back_once(host: Host) -> None:
    able(host, multiple_refund=False)
    parent = hold(host)
    captured = host.execute(asked(CAPTURE, parent, 100, "c1"))
    host.execute(asked(REFUND, captured, 60, "r1"))

    for again in (parent, captured):
        with pytest.raises(UnsupportedOperationError, match="a second refund"):
            host.execute(asked(REFUND, again, 40, "r2"))


def test_the_rail_is_told_the_providers_name_of_the_parent(host: Host) -> None:
    parent = charge(host)
    done = host.execute(asked(REFUND, parent, 100, "r1"))

    assert host.rail.sent[-1].parent_ref == parent.provider_ref == "ch_key-1"
    assert host.get("acme", done.execution_id).parent_ref == "ch_key-1"


# What is configured today -------------------------------------------------------------------------


def routes(**more: Any) -> ConfigDrivenRouteResolver:
    cards = {**ROUTES["routes"]["cards"], **more}  # type: ignore[index]
    config = {"routes": {"cards": cards}, "default_route": "cards"}
    return ConfigDrivenRouteResolver.from_mapping(config, offered=OFFERED)


def test_a_route_narrowed_to_charges_refunds_nothing(host: Host) -> None:
    parent = charge(host)
    host.restart(routes=routes(operations=["charge"]))

    with pytest.raises(UnsupportedOperationError, match="route cards cannot do refund"):
        host.execute(asked(REFUND, parent, 100, "r1"))
    assert len(host.rail.sent) == 1


@pytest.mark.parametrize(
    ("flag", "operation"), [("partial_capture", CAPTURE), ("partial_refund", REFUND)]
)
def test_configuration_narrows_parts(host: Host, flag: str, operation: Operation) -> None:
    parent = hold(host) if operation is CAPTURE else charge(host)
    host.restart(routes=routes(**{flag: False}))

    with pytest.raises(UnsupportedOperationError, match="the whole amount"):
        host.execute(asked(operation, parent, 99, "f1"))


@pytest.mark.parametrize("value", [True, "yes", 1])
def test_configuration_widens_no_parts(value: object) -> None:
    offered = {key: RouteCapabilities() for key in OFFERED}
    config = {**ROUTES, "routes": {"cards": {**ROUTES["routes"]["cards"], "partial_refund": value}}}  # type: ignore[index]

    with pytest.raises(MisconfiguredError, match=r"routes\.cards\.partial_refund"):
        ConfigDrivenRouteResolver.from_mapping(config, offered=offered)


def test_a_narrower_choice_of_currencies_strands_no_refund(host: Host) -> None:
    parent = charge(host)
    host.restart(routes=routes(currencies=["USD"]))

    assert host.execute(asked(REFUND, parent, 100, "r1")).status is COMPLETED


def test_a_change_of_accounts_strands_no_refund(host: Host) -> None:
    parent = charge(host)
    host.restart(routes=routes(account="other", operations=["charge"]))
    done = host.execute(asked(REFUND, parent, 100, "r1"))

    assert (done.status, done.account) == (COMPLETED, "main")


def test_a_route_to_the_old_account_still_says_what_it_allows(host: Host) -> None:
    parent = charge(host)
    old = {**ROUTES["routes"]["cards"], "operations": ["charge"]}  # type: ignore[index]
    new = {**ROUTES["routes"]["cards"], "account": "other"}  # type: ignore[index]
    config = {
        "routes": {"old": old, "new": new},
        "defaults": {"another": "old"},
        "default_route": "new",
    }
    offered = OFFERED
    host.restart(routes=ConfigDrivenRouteResolver.from_mapping(config, offered=offered))

    with pytest.raises(UnsupportedOperationError, match="route old "):
        host.execute(asked(REFUND, parent, 100, "r1"))


class Nowhere:
    """Finds no route."""

    def resolve(self, asked: PaymentContext, /) -> Resolution:
        raise RouteNotFoundError(asked.tenant_id, asked.payment_option_key)


def test_without_any_route_the_rail_says_what_can_be_done(host: Host) -> None:
    parent = charge(host)
    host.restart(routes=Nowhere())

    assert host.execute(asked(REFUND, parent, 100, "r1")).status is COMPLETED


def test_the_route_of_a_captures_authorization_counts(host: Host) -> None:
    parent = hold(host)
    captured = host.execute(asked(CAPTURE, parent, 100, "c1"))
    match = {
        "tenant_id": "acme",
        "payment_option_key": "card.mada",
        "operation": "authorize",
        "route": "held",
    }
    config = {
        **ROUTES,
        "routes": {
            **ROUTES["routes"],  # type: ignore[dict-item]
            "held": {**ROUTES["routes"]["cards"], "operations": ["authorize", "capture"]},  # type: ignore[index]
        },
        "exact": [match],
    }
    offered = OFFERED
    host.restart(routes=ConfigDrivenRouteResolver.from_mapping(config, offered=offered))

    with pytest.raises(UnsupportedOperationError, match="route held "):
        host.execute(asked(REFUND, captured, 100, "r1"))


# Doubt (rule R6) ----------------------------------------------------------------------------------


def lose(host: Host, request: PaymentContext) -> PaymentExecution:
    """Have *request* carried out, and its answer lost."""
    answer, host.rail.answer = host.rail.answer, always(TIMEOUT)
    lost = host.execute(request)
    host.rail.answer = answer
    return lost


def test_a_second_full_refund_waits_until_the_first_is_known(host: Host) -> None:
    parent = charge(host)
    first = lose(host, asked(REFUND, parent, 100, "r1"))

    with pytest.raises(InDoubtError) as refused:
        host.execute(asked(REFUND, parent, 100, "r2"))
    assert refused.value.execution_ids == (first.execution_id,)
    assert host.store.find("acme", "r2") is None
    assert len(host.rail.sent) == 2
    assert len(host.rail.looked_up) == 1


def test_a_first_refund_that_took_place_is_found_before_a_second(host: Host) -> None:
    parent = charge(host)
    first = lose(host, asked(REFUND, parent, 100, "r1"))
    host.rail.lookup = succeed

    with pytest.raises(LimitExceededError, match="0 minor units available"):
        host.execute(asked(REFUND, parent, 100, "r2"))
    assert host.get("acme", first.execution_id).status is COMPLETED
    assert sums(host).refunded_minor == 100


def test_a_first_refund_that_was_refused_makes_way_for_a_second(host: Host) -> None:
    parent = charge(host)
    lose(host, asked(REFUND, parent, 100, "r1"))
    host.rail.lookup = always(DECLINED)

    assert host.execute(asked(REFUND, parent, 100, "r2")).status is COMPLETED
    assert (sums(host).refunded_minor, sums(host).refunding_minor) == (100, 0)


def test_checking_first_sends_nothing(host: Host) -> None:
    parent = charge(host)
    lose(host, asked(REFUND, parent, 100, "r1"))
    host.clock.advance(61)

    with pytest.raises(InDoubtError):
        host.execute(asked(REFUND, parent, 100, "r2"))
    assert len(host.rail.sent) == 2


def test_a_refund_beside_one_in_doubt_is_taken_within_what_is_left(host: Host) -> None:
    parent = charge(host)
    lose(host, asked(REFUND, parent, 40, "r1"))

    assert host.execute(asked(REFUND, parent, 60, "r2")).status is COMPLETED
    assert (sums(host).refunded_minor, sums(host).refunding_minor) == (60, 40)
    assert not host.rail.looked_up


def test_a_refund_in_doubt_counts_against_its_charge(host: Host) -> None:
    both = Money(200, SAR)
    first = charge(host, due=both)
    charge(host, due=both, idempotency_key="c2")
    lose(host, asked(REFUND, first, 60, "r1"))

    with pytest.raises(InDoubtError):
        host.execute(asked(REFUND, first, 41, "r2"))
    assert host.execute(asked(REFUND, first, 40, "r3")).status is COMPLETED


def test_a_key_in_doubt_is_returned_as_it_is_and_asked_about_nowhere(host: Host) -> None:
    parent = charge(host)
    first = lose(host, asked(REFUND, parent, 100, "r1"))

    assert host.execute(asked(REFUND, parent, 100, "r1")) == first
    assert not host.rail.looked_up


@pytest.mark.parametrize(("first", "second"), [(CAPTURE, VOID), (VOID, CAPTURE)])
def test_a_capture_and_a_void_wait_for_each_other(
    host: Host, first: Operation, second: Operation
) -> None:
    parent = hold(host)
    lost = lose(host, asked(first, parent, 40, "f1"))

    with pytest.raises(InDoubtError, match=str(lost.execution_id)):
        host.execute(asked(second, parent, 60, "f2"))
    host.rail.lookup = succeed
    assert host.execute(asked(second, parent, 60, "f2")).status is COMPLETED
    assert sums(host).capturable_minor == 0


def test_what_a_capture_in_doubt_may_have_collected_is_not_refunded_yet(host: Host) -> None:
    parent = hold(host)
    lost = lose(host, asked(CAPTURE, parent, 100, "c1"))

    for of in (parent, lost):
        with pytest.raises(InDoubtError, match=str(lost.execution_id)):
            host.execute(asked(REFUND, of, 100, "r1"))
    host.rail.lookup = succeed
    assert host.execute(asked(REFUND, lost, 100, "r1")).status is COMPLETED


def test_a_parent_in_doubt_is_asked_about_first(host: Host) -> None:
    lost = lose(host, context(money=Money(100, SAR)))
    host.rail.lookup = succeed

    assert host.execute(asked(REFUND, lost, 100, "r1")).status is COMPLETED


def test_a_new_attempt_asks_about_the_first(host: Host) -> None:
    lose(host, context(money=Money(100, SAR)))
    again = context(money=Money(100, SAR), idempotency_key="key-2")
    with pytest.raises(LiveExecutionExists):
        host.execute(again)
    assert len(host.rail.looked_up) == 1

    host.rail.lookup = always(DECLINED)
    assert host.execute(again).status is COMPLETED


def test_a_lookup_that_breaks_leaves_the_doubt(host: Host) -> None:
    parent = charge(host)
    lose(host, asked(REFUND, parent, 100, "r1"))

    def broken(_: PaymentExecution) -> RailResult:
        raise RuntimeError("the gateway has a defect")

    host.rail.lookup = broken
    with pytest.raises(InDoubtError):
        host.execute(asked(REFUND, parent, 100, "r2"))


def test_a_refund_that_the_provider_is_working_on_is_waited_for(host: Host) -> None:
    parent = charge(host)
    host.rail.answer = always(PROCESSING)
    host.execute(asked(REFUND, parent, 100, "r1"))

    with pytest.raises(InDoubtError):
        host.execute(asked(REFUND, parent, 1, "r2"))


# Limits -------------------------------------------------------------------------------------------


def test_forty_and_sixty_are_all(host: Host) -> None:
    parent = charge(host)
    for minor in (40, 60):
        assert host.execute(asked(REFUND, parent, minor, f"r{minor}")).status is COMPLETED

    assert (sums(host).refunded_minor, sums(host).refundable_minor) == (100, 0)


def test_nothing_is_captured_of_what_was_voided(host: Host) -> None:
    parent = hold(host)
    host.execute(asked(VOID, parent, 100, "v1"))

    with pytest.raises(LimitExceededError, match="0 minor units available"):
        host.execute(asked(CAPTURE, parent, 1, "c1"))


def test_a_void_is_no_refund(host: Host) -> None:
    parent = hold(host)
    host.execute(asked(CAPTURE, parent, 60, "c1"))
    host.execute(asked(VOID, parent, 40, "v1"))

    assert (sums(host).voided_minor, sums(host).refunded_minor) == (40, 0)
    assert host.execute(asked(REFUND, parent, 60, "r1")).status is COMPLETED


def test_an_uncaptured_authorization_has_nothing_to_give_back(host: Host) -> None:
    parent = hold(host)

    with pytest.raises(LimitExceededError, match="0 minor units available"):
        host.execute(asked(REFUND, parent, 1, "r1"))


def test_two_authorizations_of_a_payment_are_captured_apart(host: Host) -> None:
    first, second = (hold(host, idempotency_key=k, due=Money(200, SAR)) for k in ("a1", "a2"))
    host.execute(asked(CAPTURE, first, 70, "c1"))
    host.execute(asked(CAPTURE, second, 20, "c2"))

    with pytest.raises(LimitExceededError, match="30 minor units available"):
        host.execute(asked(CAPTURE, first, 31, "c3"))
    assert host.execute(asked(CAPTURE, second, 80, "c4")).status is COMPLETED
    with pytest.raises(LimitExceededError, match="70 minor units available"):
        host.execute(asked(REFUND, first, 71, "r1"))


@pytest.mark.parametrize("operation", [CAPTURE, VOID])
def test_a_follow_up_stays_in_its_currency(host: Host, operation: Operation) -> None:
    parent = hold(host)

    with pytest.raises(RefusedError, match="is not held in USD"):
        host.execute(attrs.evolve(asked(operation, parent, 1, "f1"), money=Money(1, USD)))


def test_of_two_refunds_at_once_one_is_refused() -> None:
    host = Host("sync")
    for number in range(30):
        payment_id = f"inv-{number}"
        parent = charge(host, payment_id=payment_id, idempotency_key=f"c{number}")
        barrier = threading.Barrier(2)

        def race(
            key: str, *, of: PaymentExecution = parent, start: threading.Barrier = barrier
        ) -> object:
            start.wait()
            request = asked(REFUND, of, 60, key, payment_id=of.payment_id)
            try:
                return host.execute(request).status
            except (LimitExceededError, InDoubtError, InProgressError) as error:
                return error

        with ThreadPoolExecutor(2) as threads:
            answers = list(threads.map(race, (f"{number}-a", f"{number}-b")))
        assert answers.count(COMPLETED) == 1
        payment = host.store.payment("acme", payment_id)
        assert payment is not None
        assert payment.refunded_minor + payment.refunding_minor == 60

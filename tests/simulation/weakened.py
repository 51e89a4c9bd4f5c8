"""
Each rule of the call protocol, taken away by itself: the search has to find out why it is there.

The rules are weakened from outside, by replacing a function while a search runs. Nothing in the
library knows of it. What has to break is never the rule itself but what it protects: money that
moves twice, money that moved and is called failed, a state that changes after its end.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import attrs
import pytest

from railcore import kernel, lifecycle
from railcore.clock import Deadline
from railcore.enums import ExecutionStatus, Idempotency
from railcore.execution import PaymentExecution
from railcore.failures import FailureCategory, PaymentFailureCode
from railcore.intake import Intake
from railcore.kernel import Kernel
from railcore.lifecycle import Fact, FactSource
from railcore.procedures import Procedure, Procedures, ask
from railcore.rails import exchanges
from railcore.results import RailResult
from railcore.routing import RouteCapabilities
from railcore.testing import memory
from railcore.webhooks import WebhookReceipt, receipt_of
from tests.simulation.scenarios import (
    ENQUEUED_PLAIN,
    EXECUTED,
    EXECUTED_FORGETFUL,
    EXECUTED_PLAIN,
    TOLD,
)
from tests.simulation.search import Allowed, Scenario

Patch = pytest.MonkeyPatch


@attrs.frozen(kw_only=True)
class WeakRule:
    """
    A rule, how to take it away, and where to look for what happens then.

    Attributes:
        breaks: How the counter-example's problem begins.
        marks: ``slow`` where the shortest counter-example is far away.
    """

    name: str
    apply: Callable[[Patch], None]
    scenario: Scenario
    breaks: str
    marks: tuple[pytest.MarkDecorator, ...] = ()


def _of(scenario: Scenario, *, workers: int = 1, **allowed: int) -> Scenario:
    return attrs.evolve(
        scenario,
        allowed=Allowed(**allowed),
        workers=workers,
        checks_rules=False,
        until_s=12,
    )


def no_send_deadline(patch: Patch) -> None:
    """R2: a process that wakes up late sends all the same."""
    patch.setattr(Deadline, "has_passed", lambda _: False)


def resend_whenever(patch: Patch) -> None:
    """R3: the same request again, however old its key is."""
    patch.setattr(kernel, "may_resend", lambda _, can, __: can.idempotency is not Idempotency.NONE)


def resend_until_the_window_ends(patch: Patch) -> None:
    """R3: counted to the end of the key window, forgetting how long a request is on the road."""

    def may_resend(execution: PaymentExecution, can: RouteCapabilities, at: datetime) -> bool:
        first, window = execution.first_sent_at, can.timing.key_window_s
        assert first is not None
        assert window is not None
        return at < first + timedelta(seconds=window)

    patch.setattr(kernel, "may_resend", may_resend)


def resend_by_an_old_clock(patch: Patch) -> None:
    """R3: counted up to when the lookup was asked for, not up to now."""
    real = Kernel.after_lookup

    def after_lookup(
        self: Kernel,
        execution: PaymentExecution,
        result: RailResult,
        at: datetime,
        took_s: float = 0.0,
    ) -> Any:
        return real(self, execution, result, at, took_s * 0)

    patch.setattr(Kernel, "after_lookup", after_lookup)


def resend_to_anybody(patch: Patch) -> None:
    """R3: the same request again, to a provider that knows no keys."""
    patch.setattr(kernel, "may_resend", lambda *_: True)


def absence_is_proof_at_once(patch: Patch) -> None:
    """R4: "not found" means that nothing happened, whenever it is heard."""
    patch.setattr(kernel, "absence_is_proof", lambda *_: True)


def absence_without_read_lag(patch: Patch) -> None:
    """R4: "not found" is believed from D + L on; the provider's reads are taken as current."""
    _absence_after(patch, lambda can: can.timing.send_deadline_s + can.timing.latest_arrival_s)


def absence_without_the_road(patch: Patch) -> None:
    """R4: "not found" is believed from D + G on; requests are taken to arrive at once."""
    _absence_after(patch, lambda can: can.timing.send_deadline_s + can.timing.read_lag_s)


def _absence_after(patch: Patch, wait_s: Callable[[RouteCapabilities], float]) -> None:
    def is_proof(execution: PaymentExecution, can: RouteCapabilities, at: datetime) -> bool:
        assert execution.last_sent_at is not None
        return at > execution.last_sent_at + timedelta(seconds=wait_s(can))

    patch.setattr(kernel, "absence_is_proof", is_proof)


def absence_since_the_first_send(patch: Patch) -> None:
    """R4: counted from the first send, as if there had been no other."""
    real = kernel.absence_is_proof

    def is_proof(execution: PaymentExecution, can: RouteCapabilities, at: datetime) -> bool:
        return real(execution.changed(last_sent_at=execution.first_sent_at), can, at)

    patch.setattr(kernel, "absence_is_proof", is_proof)


def absence_at_the_answer(patch: Patch) -> None:
    """R4: counted up to when "not found" was heard, not up to when it was asked for."""
    real = Kernel.after_lookup

    def after_lookup(
        self: Kernel,
        execution: PaymentExecution,
        result: RailResult,
        at: datetime,
        took_s: float = 0.0,
    ) -> Any:
        return real(self, execution, result, at + timedelta(seconds=took_s), 0.0)

    patch.setattr(Kernel, "after_lookup", after_lookup)


def a_timeout_is_a_failure(patch: Patch) -> None:
    """R5: no answer is taken as "it did not work"."""
    patch.setattr(exchanges, "_unsent", lambda _: PaymentFailureCode.NETWORK_ERROR)
    real = RailResult.unknown

    def unknown(cause: Any, **more: Any) -> RailResult:
        if cause is PaymentFailureCode.PROVIDER_TIMEOUT:
            return RailResult.failed(PaymentFailureCode.NETWORK_ERROR)
        return real(cause, **more)

    patch.setattr(RailResult, "unknown", unknown)


def an_error_is_a_failure(patch: Patch) -> None:
    """R5: a 500 is taken as "it did not work"."""
    patch.setattr(
        "railcore_adapters.stub.wire._UNREADABLE",
        RailResult.failed(PaymentFailureCode.PROVIDER_UNAVAILABLE),
    )


def any_token_will_do(patch: Patch) -> None:
    """The fencing token is not looked at: whoever held the lease once may mark a send."""

    def held(
        self: memory.InMemoryExecutionStore, execution: PaymentExecution
    ) -> PaymentExecution | None:
        stored = self.get(execution.tenant_id, execution.execution_id)
        return stored if stored is not None and stored.is_open else None

    patch.setattr(memory.InMemoryExecutionStore, "_held", held)


def no_lease(patch: Patch) -> None:
    """Nobody waits for a lease, and nobody is fenced out."""
    patch.setattr(memory, "_is_held", lambda *_: False)
    any_token_will_do(patch)


def a_new_key_for_each_send(patch: Patch) -> None:
    """The provider's key is made anew for every send, instead of derived from the request."""
    patch.setattr(
        PaymentExecution,
        "provider_key",
        property(lambda self: f"{self.send_count:04x}{self.context.provider_key[4:]}"),
    )


def send_before_the_mark(patch: Patch) -> None:
    """R1: first send, then commit that it was sent."""

    def send_again(self: Procedures, execution: PaymentExecution) -> Procedure[PaymentExecution]:
        send_by = self.kernel.send_by(self.kernel.capabilities(execution).timing)
        rail = self.rails.find(execution.rail, execution.provider)
        result = yield from ask(lambda: rail.execute(execution, send_by=send_by))
        marked = yield from ask(
            lambda: self.store.mark_sent(execution, self.kernel.settings.lease_s)
        )
        if marked is None:
            return (yield from self.get(execution.tenant_id, execution.execution_id))
        fact = self.kernel.fact_of_answer(marked, result)
        return (yield from self._fold(marked, lambda _: fact))

    patch.setattr(Procedures, "_send_again", send_again)


def one_try_speaks_for_all(patch: Patch) -> None:
    """R5: the refusal of a second try is taken as an answer to the first one, too."""

    def fact_of_answer(_: Kernel, execution: PaymentExecution, result: RailResult) -> Fact:
        own = (
            result.failure is not None and result.failure.category is not FailureCategory.PERMANENT
        )
        return Fact(result=result, source=FactSource.CALL, phase=execution.phase, is_fenced=own)

    patch.setattr(Kernel, "fact_of_answer", fact_of_answer)


def the_end_is_not_the_end(patch: Patch) -> None:
    """A terminal state may be left: later news always wins."""
    real = lifecycle.decide

    def decide(execution: PaymentExecution, fact: Fact) -> Any:
        processing = ExecutionStatus.PROCESSING
        is_over = not execution.is_open
        return real(
            execution.changed(status=processing, failure=None) if is_over else execution, fact
        )

    patch.setattr("railcore.procedures.decide", decide)
    patch.setattr(lifecycle, "check_edge", lambda *_: None)
    patch.setattr(memory, "check_edge", lambda *_: None)


def the_last_writer_wins(patch: Patch) -> None:
    """Status and version are not compared: whoever writes last is right."""
    patch.setattr(memory, "_still_holds", lambda *_: True)


def acknowledge_before_storing(patch: Patch) -> None:
    """The provider is told that its event was taken before the event is stored."""

    def receive(
        self: Intake, provider: str, headers: Any, body: bytes, account: str | None
    ) -> Procedure[WebhookReceipt]:
        yield from ()
        return receipt_of(self._verified(provider, headers, body, account))

    patch.setattr(Intake, "receive", receive)


WEAK_RULES: Final = (
    WeakRule(
        name="no send deadline (R2)",
        apply=no_send_deadline,
        scenario=_of(EXECUTED, calls=1),
        breaks="I11",
    ),
    WeakRule(
        name="a resend whenever, key window or not (R3)",
        apply=resend_whenever,
        scenario=_of(EXECUTED_FORGETFUL, calls=1, lost=1, slow=1),
        breaks="I1",
        marks=(pytest.mark.slow,),
    ),
    WeakRule(
        name="a resend until the key window ends, the road forgotten (R3)",
        apply=resend_until_the_window_ends,
        scenario=_of(EXECUTED_FORGETFUL, calls=1, lost=1, slow=1),
        breaks="I1",
    ),
    WeakRule(
        name="a resend by what the clock showed before the lookup (R3)",
        apply=resend_by_an_old_clock,
        scenario=_of(EXECUTED_FORGETFUL, calls=1, lost=1, slow=1),
        breaks="I1",
        marks=(pytest.mark.slow,),
    ),
    WeakRule(
        name="a resend to a provider that knows no keys (R3)",
        apply=resend_to_anybody,
        scenario=_of(EXECUTED_PLAIN, calls=1, lost=1),
        breaks="I1",
    ),
    WeakRule(
        name="absence is proof at once (R4)",
        apply=absence_is_proof_at_once,
        scenario=_of(EXECUTED_PLAIN, calls=1, lost=1),
        breaks="I11",
    ),
    WeakRule(
        name="absence is proof, read lag forgotten (R4)",
        apply=absence_without_read_lag,
        scenario=_of(EXECUTED_PLAIN, calls=1, lost=1),
        breaks="I11",
    ),
    WeakRule(
        name="absence is proof, the road forgotten (R4)",
        apply=absence_without_the_road,
        scenario=_of(EXECUTED_PLAIN, calls=1, lost=1),
        breaks="I11",
    ),
    WeakRule(
        name="absence counted from the first send (R4)",
        apply=absence_since_the_first_send,
        scenario=_of(EXECUTED, calls=1, slow=1),
        breaks="I11",
    ),
    WeakRule(
        name="absence counted up to the answer (R4)",
        apply=absence_at_the_answer,
        scenario=_of(EXECUTED_PLAIN, calls=1, slow=1),
        breaks="I11",
    ),
    WeakRule(
        name="a timeout is a failure (R5)",
        apply=a_timeout_is_a_failure,
        scenario=_of(EXECUTED, calls=1, lost=1),
        breaks="I11",
    ),
    WeakRule(
        name="a 500 is a failure (R5)",
        apply=an_error_is_a_failure,
        scenario=_of(EXECUTED, calls=1, errors=1),
        breaks="I11",
    ),
    WeakRule(
        name="the refusal of one try speaks for all (R5)",
        apply=one_try_speaks_for_all,
        scenario=_of(EXECUTED, calls=1, lost=1, refused=1),
        breaks="I11",
    ),
    WeakRule(
        name="no fencing token",
        apply=any_token_will_do,
        scenario=_of(ENQUEUED_PLAIN, workers=2, calls=1),
        breaks="I1",
    ),
    WeakRule(
        name="no lease",
        apply=no_lease,
        scenario=_of(ENQUEUED_PLAIN, workers=2, calls=1),
        breaks="I1",
    ),
    WeakRule(
        name="a new provider key for each send",
        apply=a_new_key_for_each_send,
        scenario=_of(EXECUTED, calls=1, lost=1),
        breaks="I1",
    ),
    WeakRule(
        name="send before the mark is stored (R1)",
        apply=send_before_the_mark,
        scenario=_of(ENQUEUED_PLAIN, calls=1, crashes=1),
        breaks="I1",
    ),
    WeakRule(
        name="a terminal state may be left",
        apply=the_end_is_not_the_end,
        scenario=_of(TOLD, calls=1, deliveries=2),
        breaks="I5",
    ),
    WeakRule(
        name="the last writer wins",
        apply=the_last_writer_wins,
        scenario=_of(TOLD, calls=1, deliveries=1),
        breaks="I5",
    ),
    WeakRule(
        name="acknowledge before storing (webhooks)",
        apply=acknowledge_before_storing,
        scenario=_of(TOLD, calls=1, deliveries=1, crashes=1),
        breaks="I13",
    ),
)

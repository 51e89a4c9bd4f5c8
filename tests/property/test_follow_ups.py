"""
Any captures, voids and refunds, answered or not: never more is taken than was allowed.

Every step is compared with a simple model, the provider's own ledger. What the provider did and did
not do is decided when it is asked; whether we hear of it is another matter.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Literal

import attrs
import pytest
import sqlalchemy
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from railcore.clock import SystemClock
from railcore.context import PaymentContext
from railcore.engine import PaymentEngine
from railcore.enums import ExecutionStatus, Operation, PaymentRail
from railcore.errors import InDoubtError, LimitExceededError, LiveExecutionExists, RefusedError
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.money import SAR, Money
from railcore.ports import ExecutionStore, Rail
from railcore.registry import PaymentRailRegistry
from railcore.results import RailResult
from railcore.routing import ConfigDrivenRouteResolver
from railcore.testing.memory import InMemoryExecutionStore
from railcore_sqlalchemy.stores import SqlExecutionStore
from tests.conftest import fresh_database
from tests.core.hosts import ROUTES, FakeRail

Fate = Literal["done", "refused", "done, unheard", "refused, unheard"]
AUTHORIZE, CAPTURE = Operation.AUTHORIZE, Operation.CAPTURE
CHARGE, REFUND, VOID = Operation.CHARGE, Operation.REFUND, Operation.VOID
DUE = 200
TIMEOUT = RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)
DECLINED = RailResult.failed(PaymentFailureCode.DECLINED)
numbers = count()


@attrs.frozen
class Asked:
    """Ask for something of what was asked before, wherever it points to."""

    operation: Operation
    minor: int
    of: int
    fate: Fate


@attrs.frozen
class Learned:
    """Let the provider be heard about one of all that was asked."""

    of: int


asked = st.builds(
    Asked,
    st.sampled_from([CHARGE, AUTHORIZE, CAPTURE, CAPTURE, VOID, REFUND, REFUND]),
    st.integers(1, 120) | st.sampled_from([40, 60, 100]),
    st.integers(0, 11),
    st.sampled_from(["done", "done", "refused", "done, unheard", "refused, unheard"]),
)
stories = st.lists(asked | st.builds(Learned, st.integers(0, 11)), min_size=3, max_size=14)


@attrs.define
class Provider:
    """Does what fate says, and answers lookups truly once it is heard."""

    fate: Fate = "done"
    did: dict[str, PaymentExecution] = attrs.field(factory=dict)
    refused: set[str] = attrs.field(factory=set)
    is_heard: bool = False

    def answer(self, execution: PaymentExecution) -> RailResult:
        if self.fate.startswith("done"):
            assert execution.idempotency_key not in self.did
            self.did[execution.idempotency_key] = execution
        else:
            self.refused.add(execution.idempotency_key)
        return TIMEOUT if self.fate.endswith("unheard") else self.truth(execution)

    def lookup(self, execution: PaymentExecution) -> RailResult:
        return self.truth(execution) if self.is_heard else TIMEOUT

    def truth(self, execution: PaymentExecution) -> RailResult:
        if execution.idempotency_key in self.did:
            return RailResult.success(f"ref_{execution.idempotency_key}", execution.money)
        return DECLINED

    def sum(self, *operations: Operation, of: PaymentExecution | None = None) -> int:
        return sum(
            one.money.amount_minor
            for one in self.did.values()
            if one.operation in operations
            and (of is None or one.context.parent_execution_id == of.execution_id)
        )

    def check(self) -> None:
        """Check what may never happen with real money, whatever we have heard of it."""
        collected = self.sum(CHARGE, CAPTURE)
        assert self.sum(CHARGE, AUTHORIZE) - self.sum(VOID) <= DUE
        assert self.sum(REFUND) <= collected
        for one in self.did.values():
            if one.operation is AUTHORIZE:
                assert self.sum(CAPTURE, VOID, of=one) <= one.money.amount_minor
            elif one.operation in {CHARGE, CAPTURE}:
                assert self.sum(REFUND, of=one) <= one.money.amount_minor


@attrs.define
class Story:
    """One payment, step by step."""

    engine: PaymentEngine
    provider: Provider
    payment_id: str
    made: list[PaymentExecution] = attrs.field(factory=list)

    def ask(self, step: Asked) -> None:
        follows = step.operation.follows_a_parent
        if follows and not self.made:
            return
        parent = self.made[step.of % len(self.made)] if follows else None
        self.provider.fate = step.fate
        context = PaymentContext(
            tenant_id="acme",
            payment_id=self.payment_id,
            idempotency_key=f"{self.payment_id}/{next(numbers)}",
            money=Money(step.minor, SAR),
            due=None if follows else Money(DUE, SAR),
            payment_option_key="card",
            operation=step.operation,
            parent_execution_id=parent.execution_id if parent else None,
        )
        try:
            self.made.append(self.engine.execute(context))
        except RefusedError as error:
            event(f"{step.operation}: {type(error).__name__}")
            assert context.idempotency_key not in self.provider.did
            if isinstance(error, InDoubtError):
                self.check_doubt(error)
            elif isinstance(error, LimitExceededError | LiveExecutionExists) and parent is None:
                assert self.open_or_done(CHARGE, AUTHORIZE) + step.minor > DUE

    def learn(self, of: int) -> None:
        if self.made:
            one = self.made[of % len(self.made)]
            self.provider.is_heard = True
            self.engine.refresh("acme", one.execution_id)
            self.provider.is_heard = False

    def check_doubt(self, error: InDoubtError) -> None:
        for execution_id in error.execution_ids:
            assert self.engine.get("acme", execution_id).is_open

    def open_or_done(self, *operations: Operation) -> int:
        stored = self.engine.executions("acme", self.payment_id)
        return sum(
            one.money.amount_minor
            for one in stored
            if one.operation in operations and one.status is not ExecutionStatus.FAILED
        )

    def check(self) -> None:
        self.provider.check()
        payment = self.engine.payment("acme", self.payment_id)
        if payment is None:
            return
        assert payment.refundable_minor >= 0
        assert payment.capturable_minor >= 0
        assert payment.chargeable_minor >= 0
        refunded = payment.refunded_minor + payment.refunding_minor
        assert self.provider.sum(REFUND) <= refunded
        assert refunded <= payment.captured_minor
        voided = payment.voided_minor + payment.voiding_minor
        assert payment.voided_minor <= self.provider.sum(VOID) <= voided

    def check_end(self) -> None:
        """Hear of everything: our sums are the provider's."""
        for number in range(len(self.made)):
            self.learn(number)
        payment = self.engine.payment("acme", self.payment_id)
        if payment is None:
            return
        truth = self.provider.sum
        assert payment.captured_minor == truth(CHARGE, CAPTURE)
        assert payment.authorized_minor == truth(CHARGE, AUTHORIZE)
        assert payment.refunded_minor == truth(REFUND)
        assert payment.voided_minor == truth(VOID)
        assert payment.charging_minor + payment.capturing_minor == 0
        assert payment.voiding_minor + payment.refunding_minor == 0


def tell(store: ExecutionStore, steps: Sequence[Asked | Learned]) -> None:
    provider = Provider()
    rails = PaymentRailRegistry[Rail]()
    rails.register(PaymentRail.CARD_PSP, "stub", FakeRail(provider.answer, provider.lookup))
    routes = ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered)
    engine = PaymentEngine(rails=rails, routes=routes, store=store)
    story = Story(engine, provider, f"inv-{next(numbers)}")
    for step in steps:
        if isinstance(step, Asked):
            story.ask(step)
        else:
            story.learn(step.of)
        story.check()
    story.check_end()


@settings(max_examples=300, deadline=None)
@given(stories)
def test_any_follow_ups_in_memory(steps: Sequence[Asked | Learned]) -> None:
    tell(InMemoryExecutionStore(SystemClock()), steps)


@pytest.fixture(scope="module")
def store(postgres_url: str, template_database: str) -> Iterator[SqlExecutionStore]:
    """A store for all stories: each has a payment of its own."""
    with fresh_database(postgres_url, template=template_database) as url:
        database = sqlalchemy.create_engine(url)
        yield SqlExecutionStore(database)
        database.dispose()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=stories)
def test_any_follow_ups_on_postgres(
    store: SqlExecutionStore, steps: Sequence[Asked | Learned]
) -> None:
    tell(store, steps)

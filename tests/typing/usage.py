"""
The API as users write it; only type-checked, never run.

``assert_type`` says what must check. What must *not* check carries the error that it has to give:
mypy reports a ``type: ignore`` that nothing needs, so each of them is proof.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Literal, assert_never, assert_type
from uuid import UUID

from railcore import (
    AsyncPaymentEngine,
    ConfigDrivenRouteResolver,
    Currency,
    Deadline,
    ExecutionStatus,
    FailureCategory,
    HttpRequest,
    HttpResponse,
    IdempotencyConflict,
    Money,
    NextAction,
    NextActionKind,
    Operation,
    OperatorDecision,
    PaymentContext,
    PaymentEngine,
    PaymentExecution,
    PaymentFailureCode,
    PaymentRail,
    PaymentRailRegistry,
    PaymentView,
    PendingReason,
    RailResult,
    RefusedError,
    RouteCapabilities,
    Secret,
    drive,
)
from railcore.http import Exchange
from railcore.money import KWD, SAR
from railcore.ports import AsyncExecutionStore, AsyncRail, ExecutionStore, Rail
from railcore.testing.memory import AsyncInMemoryExecutionStore, InMemoryExecutionStore

# Money --------------------------------------------------------------------------------------------

assert_type(Money(1250, SAR), Money)
assert_type(Money.of("12.50", SAR), Money)
assert_type(Money.of(Decimal("12.50"), Currency.of("SAR")), Money)
assert_type(Money(1, KWD) + Money(2, KWD) - Money(3, KWD), Money)
assert_type(Money(1, KWD).to_major(), Decimal)
assert_type(Money(1, KWD) < Money(2, KWD), bool)

Money(12.5, SAR)  # type: ignore[arg-type]
Money("1250", SAR)  # type: ignore[arg-type]
Money(Decimal("12.50"), SAR)  # type: ignore[arg-type]
Money(1250, "SAR")  # type: ignore[arg-type]
Money(1250)  # type: ignore[call-arg]
Money.of(12.5, SAR)  # type: ignore[arg-type]
Money(1250, SAR) + 5  # type: ignore[operator]
Money(1250, SAR) * 1.1  # type: ignore[operator]
bool(Money(1250, SAR) < 1250)  # type: ignore[operator]
Money(1250, SAR).amount_minor = 1  # type: ignore[misc]

# Contexts -----------------------------------------------------------------------------------------

context = PaymentContext(
    tenant_id="acme",
    payment_id="inv-1",
    idempotency_key="inv-1/1",
    money=Money(1250, SAR),
    payment_option_key="card.mada",
)
assert_type(context.money, Money)
assert_type(context.operation, Operation)
assert_type(context.parent_execution_id, UUID | None)
assert_type(context.fingerprint, bytes)
assert_type(context.provider_key, str)
assert_type(context.metadata, Mapping[str, str])

PaymentContext(  # type: ignore[call-arg]
    tenant_id="acme",
    payment_id="inv-1",
    money=Money(1250, SAR),
    payment_option_key="card.mada",
)
PaymentContext(
    tenant_id="acme",
    payment_id="inv-1",
    idempotency_key="inv-1/1",
    money=12.5,  # type: ignore[arg-type]
    payment_option_key="card.mada",
)
PaymentContext(
    tenant_id="acme",
    payment_id="inv-1",
    idempotency_key=None,  # type: ignore[arg-type]
    money=Money(1250, SAR),
    payment_option_key="card.mada",
)
PaymentContext(
    tenant_id="acme",
    payment_id="inv-1",
    idempotency_key="inv-1/1",
    money=Money(1250, SAR),
    payment_option_key="card.mada",
    operation="refund",  # type: ignore[arg-type]
)
PaymentContext("acme", "inv-1", "inv-1/1", Money(1250, SAR), "card")  # type: ignore[call-arg]
context.money = Money(1, SAR)  # type: ignore[misc]

# Results ------------------------------------------------------------------------------------------

assert_type(RailResult.success("ch_1", Money(1250, SAR)), RailResult)
assert_type(RailResult.failed(PaymentFailureCode.DECLINED), RailResult)
assert_type(RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT), RailResult)
assert_type(RailResult.pending(PendingReason.AWAITING_FUNDS), RailResult)

RailResult.failed(PaymentFailureCode.PROVIDER_TIMEOUT)  # type: ignore[arg-type]
RailResult.failed(PaymentFailureCode.INVALID_RESPONSE)  # type: ignore[arg-type]
RailResult.failed("declined")  # type: ignore[arg-type]
RailResult.unknown(PaymentFailureCode.DECLINED)  # type: ignore[arg-type]
RailResult.unknown(PaymentFailureCode.NETWORK_ERROR)  # type: ignore[arg-type]
RailResult.success("ch_1")  # type: ignore[call-arg]
RailResult.success(None, Money(1250, SAR))  # type: ignore[arg-type]
RailResult.success("ch_1", 12.5)  # type: ignore[arg-type]
RailResult.pending("customer_action")  # type: ignore[arg-type]
NextAction(kind="redirect", url="https://bank.example")  # type: ignore[arg-type]
NextAction(kind=NextActionKind.REDIRECT, url="https://bank.example")


def fail_with(code: PaymentFailureCode) -> RailResult:
    """Not every code is definite, so one that is only known to be a code is no failure."""
    return RailResult.failed(code)  # type: ignore[arg-type]


def look_at(code: PaymentFailureCode) -> bool:
    assert_type(code.category, FailureCategory)
    assert_type(code.is_definite, bool)
    assert_type(code.message_key, str)
    return code.allows_failover


def every_status(execution: PaymentExecution) -> str:
    match execution.status:
        case ExecutionStatus.PROCESSING | ExecutionStatus.PENDING:
            return "open"
        case ExecutionStatus.COMPLETED:
            return "paid"
        case ExecutionStatus.FAILED:
            return "not paid"
        case _:
            assert_never(execution.status)


def forgotten_status(execution: PaymentExecution) -> str:
    match execution.status:
        case ExecutionStatus.PROCESSING | ExecutionStatus.PENDING:
            return "open"
        case ExecutionStatus.COMPLETED:
            return "paid"
        case _:
            assert_never(execution.status)  # type: ignore[arg-type]


# Rails --------------------------------------------------------------------------------------------


class MyRail:
    """A rail around a vendor's SDK."""

    capabilities = RouteCapabilities()

    def execute(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        return RailResult.success(execution.provider_key, execution.money)

    def advance(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        return self.execute(execution, send_by=send_by)

    def check_status(self, execution: PaymentExecution, /) -> RailResult:
        return RailResult.absent()


class MyAsyncRail:
    """The same, asynchronous."""

    capabilities = RouteCapabilities()

    async def execute(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        return RailResult.success(execution.provider_key, execution.money)

    async def advance(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        return await self.execute(execution, send_by=send_by)

    async def check_status(self, execution: PaymentExecution, /) -> RailResult:
        return RailResult.absent()


class WithoutDeadline:
    """A rail that forgot the send deadline."""

    capabilities = RouteCapabilities()

    def execute(self, execution: PaymentExecution, /) -> RailResult:
        return RailResult.absent()

    def advance(self, execution: PaymentExecution, /) -> RailResult:
        return RailResult.absent()

    def check_status(self, execution: PaymentExecution, /) -> RailResult:
        return RailResult.absent()


rails = PaymentRailRegistry[Rail]()
rails.register(PaymentRail.CARD_PSP, "mine", MyRail())
rails.register(PaymentRail.CARD_PSP, "async", MyAsyncRail())  # type: ignore[arg-type]
rails.register(PaymentRail.CARD_PSP, "late", WithoutDeadline())  # type: ignore[arg-type]
rails.register("card_psp", "mine", MyRail())  # type: ignore[arg-type]
assert_type(rails.find(PaymentRail.CARD_PSP, "mine"), Rail)

async_rails = PaymentRailRegistry[AsyncRail]()
async_rails.register(PaymentRail.CARD_PSP, "mine", MyAsyncRail())
async_rails.register(PaymentRail.CARD_PSP, "sync", MyRail())  # type: ignore[arg-type]
assert_type(async_rails.find(PaymentRail.CARD_PSP, "mine"), AsyncRail)

PaymentRailRegistry[int]()  # type: ignore[type-var]

# Engines ------------------------------------------------------------------------------------------


def build(store: ExecutionStore, async_store: AsyncExecutionStore) -> None:
    routes = ConfigDrivenRouteResolver.from_mapping({}, offered=rails.offered)
    assert_type(PaymentEngine(rails=rails, routes=routes, store=store), PaymentEngine)
    AsyncPaymentEngine(rails=async_rails, routes=routes, store=async_store)

    PaymentEngine(rails=async_rails, routes=routes, store=store)  # type: ignore[arg-type]
    PaymentEngine(rails=rails, routes=routes, store=async_store)  # type: ignore[arg-type]
    AsyncPaymentEngine(rails=rails, routes=routes, store=async_store)  # type: ignore[arg-type]
    AsyncPaymentEngine(rails=async_rails, routes=routes, store=store)  # type: ignore[arg-type]
    PaymentEngine(rails=rails, routes=routes)  # type: ignore[call-arg]
    PaymentEngine(rails, routes, store)  # type: ignore[call-arg]


def stores_fit(one: InMemoryExecutionStore, other: AsyncInMemoryExecutionStore) -> None:
    fits: ExecutionStore = one
    async_fits: AsyncExecutionStore = other
    swapped: ExecutionStore = other  # type: ignore[assignment]
    swapped_too: AsyncExecutionStore = one  # type: ignore[assignment]
    assert [fits, async_fits, swapped, swapped_too]


def take_money(engine: PaymentEngine, execution_id: UUID) -> Literal["paid", "open", "not paid"]:
    try:
        execution = engine.execute(context)
    except IdempotencyConflict as error:
        assert_type(error.execution_id, UUID)
        assert_type(error.differs_in, tuple[str, ...])
        raise
    except RefusedError as error:
        assert_type(error.code, PaymentFailureCode)
        raise
    assert_type(execution, PaymentExecution)
    assert_type(engine.find("acme", "inv-1/1"), PaymentExecution | None)
    assert_type(engine.executions("acme", "inv-1"), Sequence[PaymentExecution])
    assert_type(engine.payment("acme", "inv-1"), PaymentView | None)
    engine.confirm("acme", execution_id, OperatorDecision(actor="alice", evidence="slip-7"))

    engine.execute("inv-1")  # type: ignore[arg-type]
    engine.refresh("acme", str(execution_id))  # type: ignore[arg-type]
    engine.confirm("acme", execution_id, "alice")  # type: ignore[arg-type]
    execution.status = ExecutionStatus.COMPLETED  # type: ignore[misc]
    if execution.is_open:
        return "open"
    return "paid" if execution.failure is None else "not paid"


async def take_money_async(engine: AsyncPaymentEngine) -> PaymentExecution:
    execution = await engine.execute(context)
    assert_type(execution, PaymentExecution)
    engine.execute(context).status  # type: ignore[attr-defined]  # noqa: B018 - forgot to await
    return execution


# Flows --------------------------------------------------------------------------------------------


def flow(execution: PaymentExecution) -> Exchange[RailResult]:
    answer = yield HttpRequest(method="POST", url="https://psp.example/charges", moves_money=True)
    assert_type(answer, HttpResponse)
    if answer.status == 201:
        return RailResult.success("ch_1", execution.money)
    return RailResult.unknown(PaymentFailureCode.INVALID_RESPONSE)


def flow_that_asks_for_something_else() -> Exchange[RailResult]:
    yield "https://psp.example/charges"  # type: ignore[misc]
    return RailResult.absent()


def flow_that_forgets_its_result() -> Exchange[RailResult]:  # type: ignore[return]
    yield HttpRequest(method="GET", url="https://psp.example/charges")


def converse(execution: PaymentExecution) -> RailResult:
    result = drive(flow(execution), lambda request: HttpResponse(status=len(request.method)))
    assert_type(result, RailResult)
    return result


# Secrets ------------------------------------------------------------------------------------------

assert_type(Secret("sk").reveal(), str)
text: str = Secret("sk")  # type: ignore[assignment]

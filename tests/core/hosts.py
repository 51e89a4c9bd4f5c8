"""One host in two colours: the same scenario drives either engine over the same store."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal, TypeVar
from uuid import UUID

import attrs

from railcore.clock import Deadline
from railcore.context import PaymentContext
from railcore.engine import AsyncPaymentEngine, PaymentEngine
from railcore.enums import PaymentRail
from railcore.errors import StoreError
from railcore.execution import PaymentExecution
from railcore.kernel import EngineSettings
from railcore.observability import Observed
from railcore.ports import AsyncRail, OperatorDecision, Rail, RouteResolver
from railcore.protocol import Claim, ClaimOutcome, Recording
from railcore.registry import PaymentRailRegistry
from railcore.results import RailResult
from railcore.routing import ConfigDrivenRouteResolver, RouteCapabilities
from railcore.testing.memory import AsyncInMemoryExecutionStore, InMemoryExecutionStore
from tests.core.made import CAPABLE, FakeClock

Colour = Literal["sync", "async"]
COLOURS: tuple[Colour, Colour] = ("sync", "async")
Result = TypeVar("Result")
Answer = Callable[[PaymentExecution], RailResult]
Rails = Mapping[tuple[PaymentRail, str], tuple[Rail, AsyncRail]]
ROUTES = {
    "routes": {
        "cards": {"rail": "card_psp", "provider": "stub", "account": "main", "mode": "sandbox"}
    },
    "default_route": "cards",
}


def succeed(execution: PaymentExecution) -> RailResult:
    return RailResult.success(f"ch_{execution.idempotency_key}", execution.money)


def find_nothing(_: PaymentExecution) -> RailResult:
    return RailResult.absent()


@attrs.define
class FakeRail:
    """Answers as it was told, and remembers what was asked."""

    answer: Answer = succeed
    lookup: Answer = find_nothing
    capabilities: RouteCapabilities = CAPABLE
    sent: list[PaymentExecution] = attrs.field(factory=list)
    looked_up: list[PaymentExecution] = attrs.field(factory=list)

    def execute(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        assert not send_by.has_passed()
        self.sent.append(execution)
        return self.answer(execution)

    def advance(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        return self.execute(execution, send_by=send_by)

    def check_status(self, execution: PaymentExecution, /) -> RailResult:
        self.looked_up.append(execution)
        return self.lookup(execution)


@attrs.define
class AsyncFakeRail:
    """The same, giving way to others on the road."""

    rail: FakeRail

    @property
    def capabilities(self) -> RouteCapabilities:
        return self.rail.capabilities

    async def execute(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        await asyncio.sleep(0)
        return self.rail.execute(execution, send_by=send_by)

    async def advance(self, execution: PaymentExecution, /, *, send_by: Deadline) -> RailResult:
        return await self.execute(execution, send_by=send_by)

    async def check_status(self, execution: PaymentExecution, /) -> RailResult:
        await asyncio.sleep(0)
        return self.rail.check_status(execution)


class FaultyStore(InMemoryExecutionStore):
    """A store in memory that does something else first, or fails, when told to."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.before_claim: Callable[[], None] = nothing
        self.before_record: Callable[[], None] = nothing
        self.after_record: Callable[[], None] = nothing
        self.before_mark: Callable[[], None] = nothing
        self.after_claim: Callable[[], None] = nothing

    def claim(self, claim: Claim, /) -> ClaimOutcome:
        self.before_claim()
        outcome = super().claim(claim)
        self.after_claim()
        return outcome

    def record(self, recording: Recording, /) -> PaymentExecution | None:
        self.before_record()
        stored = super().record(recording)
        self.after_record()
        return stored

    def mark_sent(self, execution: PaymentExecution, lease_s: float, /) -> PaymentExecution | None:
        self.before_mark()
        return super().mark_sent(execution, lease_s)

    def forget(self) -> None:
        """Lose everything, as a failover does that loses the last commits."""
        self._executions.clear()
        self._ids.clear()
        self._payments.clear()
        self._events.clear()


def nothing() -> None:
    """Do nothing."""


def raises(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise error

    return fail


def lost(*, may_have_committed: bool) -> StoreError:
    return StoreError("the connection was lost", may_have_committed)


@attrs.define
class Notes:
    """An observer that keeps what it is told."""

    told: list[Observed] = attrs.field(factory=list)

    def observe(self, observed: Observed, /) -> None:
        self.told.append(observed)


@attrs.define
class Host:
    """A billing app: one engine of either colour, a clock that stands still, a store, a rail."""

    colour: Colour
    clock: FakeClock = attrs.field(factory=FakeClock)
    store: FaultyStore = attrs.field(init=False)
    rail: FakeRail = attrs.field(factory=FakeRail)
    notes: Notes = attrs.field(factory=Notes)
    engine: PaymentEngine | AsyncPaymentEngine = attrs.field(init=False)
    routes: RouteResolver | None = None
    rails: Rails | None = None

    def __attrs_post_init__(self) -> None:
        self.store = FaultyStore(self.clock)
        self.restart()

    def restart(
        self,
        *,
        routes: RouteResolver | None = None,
        rails: Rails | None = None,
    ) -> None:
        """Start again with the same store, perhaps with other routes or rails."""
        stub = {(PaymentRail.CARD_PSP, "stub"): (self.rail, AsyncFakeRail(self.rail))}
        self.routes = routes or self.routes
        self.rails = self.rails if rails is None else rails
        self.engine = self._engine(
            self.colour, self.routes, stub if self.rails is None else self.rails
        )

    def twin(self) -> "Host":
        """Return another process of the same host: same store, clock and rail."""
        other = Host("sync", clock=self.clock, rail=self.rail)
        other.store = self.store
        other.restart(routes=self.routes, rails=self.rails)
        return other

    def _engine(
        self, colour: Colour, routes: RouteResolver | None, rails: Rails
    ) -> PaymentEngine | AsyncPaymentEngine:
        settings = EngineSettings(owner=f"{colour}-engine")
        if colour == "sync":
            registry = PaymentRailRegistry[Rail]()
            for (rail, provider), pair in rails.items():
                registry.register(rail, provider, pair[0])
            return PaymentEngine(
                rails=registry,
                routes=routes
                or ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=registry.offered),
                store=self.store,
                settings=settings,
                clock=self.clock,
                observer=self.notes,
                chance=lambda: 1.0,
            )
        others = PaymentRailRegistry[AsyncRail]()
        for (rail, provider), pair in rails.items():
            others.register(rail, provider, pair[1])
        return AsyncPaymentEngine(
            rails=others,
            routes=routes or ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=others.offered),
            store=AsyncInMemoryExecutionStore(self.clock, shared=self.store),
            settings=settings,
            clock=self.clock,
            observer=self.notes,
            chance=lambda: 1.0,
        )

    def execute(self, context: PaymentContext) -> PaymentExecution:
        return run(self.engine.execute(context))

    def refresh(self, execution: PaymentExecution) -> PaymentExecution:
        return run(self.engine.refresh(execution.tenant_id, execution.execution_id))

    def refresh_later(self, execution: PaymentExecution, after_s: float = 61) -> PaymentExecution:
        """Look again once every lease has run out."""
        self.clock.advance(after_s)
        return self.refresh(execution)

    def confirm(self, execution: PaymentExecution, decision: OperatorDecision) -> PaymentExecution:
        return run(self.engine.confirm(execution.tenant_id, execution.execution_id, decision))

    def reject(self, execution: PaymentExecution, decision: OperatorDecision) -> PaymentExecution:
        return run(self.engine.reject(execution.tenant_id, execution.execution_id, decision))

    def get(self, tenant_id: str, execution_id: UUID) -> PaymentExecution:
        return run(self.engine.get(tenant_id, execution_id))

    def find(self, context: PaymentContext) -> PaymentExecution:
        """Return what is stored under the key of *context*; it has to be there."""
        found = self.store.find(context.tenant_id, context.idempotency_key)
        assert found is not None
        return found


def run(value: Result | Coroutine[Any, Any, Result]) -> Result:
    """Return *value*, awaited where it has to be."""
    return asyncio.run(value) if isinstance(value, Coroutine) else value

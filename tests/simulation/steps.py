"""
The real procedures of the core, taken apart into steps that a scheduler may put in any order.

A procedure yields calls of its store, its inbox, its outbox or a rail. Here the ports only say
*what* is asked (``Ask``); a rail says *how the conversation goes* (``Talk``). ``stepped`` turns
both into one flat generator: every ``yield`` is a place where the process may be paused, killed or
overtaken, and where the answer may be lost, late or an error.
"""

from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

import attrs

from railcore.clock import Deadline
from railcore.context import PaymentContext
from railcore.enums import Idempotency, PaymentRail
from railcore.execution import PaymentExecution
from railcore.http import Exchange, HttpRequest
from railcore.intake import Intake, Webhooks
from railcore.kernel import EngineSettings, Kernel, check_leases
from railcore.money import SAR, Money
from railcore.ports import Rail
from railcore.procedures import Procedure, Procedures
from railcore.rails.card_psp import CardPspRail
from railcore.redaction import Secret
from railcore.registry import PaymentRailRegistry
from railcore.results import RailResult
from railcore.routing import ConfigDrivenRouteResolver, RouteCapabilities, TimingBounds
from railcore.webhooks import WebhookAccount, WebhookSettings
from railcore_adapters.stub import StubGateway, StubWebhooks

T = TypeVar("T")

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
ASKED: Final = Money(1250, SAR)
SECRET: Final = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
ROUTES: Final = {
    "routes": {
        "cards": {"rail": "card_psp", "provider": "stub", "account": "main", "mode": "sandbox"}
    },
    "default_route": "cards",
}


def at(seconds: float) -> datetime:
    """The instant so many seconds after everything began."""
    return NOW + timedelta(seconds=seconds)


def seconds_at(instant: datetime) -> float:
    """How many seconds after everything began."""
    return (instant - NOW).total_seconds()


@attrs.frozen
class Ask:
    """What a procedure wants of a port: made by it, not carried out yet."""

    port: str
    name: str
    args: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...] = ()

    def of(self, port: object) -> Any:
        """Carry it out."""
        return getattr(port, self.name)(*self.args, **dict(self.named))


@attrs.frozen
class Talk:
    """A conversation with a provider, not begun yet."""

    flow: Exchange[RailResult] = attrs.field(eq=False)
    execution: PaymentExecution
    send_by: Deadline | None


class Sending(NamedTuple):
    """A request that a conversation wants to send, for whom, and until when it may leave."""

    request: HttpRequest
    execution: PaymentExecution
    send_by: Deadline | None


class Asking:
    """Stands for a port, and turns each call into an ``Ask``."""

    def __init__(self, port: str) -> None:
        self._port = port

    def __getattr__(self, name: str) -> Callable[..., Ask]:
        port = self._port

        def asked(*args: Any, **named: Any) -> Ask:
            return Ask(port, name, args, tuple(named.items()))

        vars(self)[name] = asked
        return asked


@attrs.frozen
class TalkingRail:
    """Stands for a rail, and turns each call into a ``Talk`` of the real card rail."""

    flows: CardPspRail

    @property
    def capabilities(self) -> RouteCapabilities:
        return self.flows.capabilities

    def execute(self, execution: PaymentExecution, /, *, send_by: Deadline) -> Talk:
        return Talk(self.flows.execute(execution), execution, send_by)

    def advance(self, execution: PaymentExecution, /, *, send_by: Deadline) -> Talk:
        return Talk(self.flows.advance(execution), execution, send_by)

    def check_status(self, execution: PaymentExecution, /) -> Talk:
        return Talk(self.flows.check_status(execution), execution, None)


@attrs.frozen
class Declared:
    """The sandbox's gateway, declaring what the scenario wants it to declare."""

    gateway: StubGateway
    capabilities: RouteCapabilities

    def start(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        return self.gateway.start(execution)

    def advance(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        return self.gateway.advance(execution)

    def look_up(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        return self.gateway.look_up(execution)


Step = Ask | Sending
Stepped = Generator[Step, Any, T]
"""A procedure whose every yield is one step that the scheduler carries out."""


def stepped(procedure: Procedure[T]) -> Stepped[T]:
    """Return *procedure* as a flat generator of steps."""
    try:
        call = next(procedure)
        while True:
            try:
                wanted = call()
                if isinstance(wanted, Talk):
                    answer = yield from _spoken(wanted)
                elif isinstance(wanted, Generator):
                    answer = yield from wanted
                else:
                    answer = yield wanted
            except Exception as error:  # noqa: BLE001 - as drive() does: the procedure decides
                call = procedure.throw(error)
            else:
                call = procedure.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


def _spoken(talk: Talk) -> Stepped[RailResult]:
    flow = talk.flow
    try:
        request = next(flow)
        while True:
            try:
                answer = yield Sending(request, talk.execution, talk.send_by)
            except Exception as error:  # noqa: BLE001 - as drive() does: the flow decides
                request = flow.throw(error)
            else:
                request = flow.send(answer)
    except StopIteration as end:
        result: RailResult = end.value
        return result


class ProcessClock:
    """
    The clocks of one process, in seconds since everything began.

    Its monotonic clock began somewhere else; its wall clock may be wrong by ``skew_s``.
    """

    def __init__(self, read: Callable[[], float], skew_s: float = 0.0) -> None:
        self._read = read
        self._skew_s = skew_s

    def now(self) -> datetime:
        return at(self._read() + self._skew_s)

    def monotonic(self) -> float:
        return self._read() + 1000.0


@attrs.frozen(kw_only=True)
class Provider:
    """What the provider promises, as its adapter declares it."""

    timing: TimingBounds
    is_idempotent: bool = True
    is_authoritative: bool = True

    @property
    def rail(self) -> CardPspRail:
        gateway = StubGateway("http://psp", timing=self.timing)
        can = attrs.evolve(
            gateway.capabilities,
            idempotency=Idempotency.KEY if self.is_idempotent else Idempotency.NONE,
            lookup_is_authoritative=self.is_authoritative,
        )
        return CardPspRail(Declared(gateway, can))


class _Accounts:
    def accounts(self, provider: str, account: str | None, /) -> tuple[WebhookAccount, ...]:
        return (WebhookAccount(account="main", secrets=(SECRET,)),)


@attrs.frozen(kw_only=True)
class Process:
    """One process: the real procedures over ports that only ask."""

    procedures: Procedures
    intake: Intake


def process(
    provider: Provider,
    settings: EngineSettings,
    clock: ProcessClock,
    new_id: Callable[[], UUID],
    *,
    chance: Callable[[], float] = lambda: 1.0,
    kernel: type[Kernel] = Kernel,
    webhooks: WebhookSettings | None = None,
    **more: Any,
) -> Process:
    """Return a process whose stores and rails only say what they are asked."""
    rails = PaymentRailRegistry[Rail]()
    talking: Any = TalkingRail(provider.rail)  # answers with a conversation, not with a result
    rails.register(PaymentRail.CARD_PSP, "stub", talking)
    check_leases(rails.offered, settings)
    store: Any = Asking("store")
    inbox: Any = Asking("inbox")
    core = kernel(
        routes=ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered),
        offered=rails.offered,
        settings=settings,
        clock=clock,
        observer=None,
        new_id=new_id,
        chance=chance,
        **more,
    )
    procedures = Procedures(core, rails, store)
    hearing: Webhooks[Any] = Webhooks(
        providers={"stub": StubWebhooks()},
        accounts=_Accounts(),
        inbox=inbox,
        settings=webhooks or WebhookSettings(),
    )
    return Process(procedures=procedures, intake=Intake(procedures, hearing))


def charge(
    key: str = "key-1", payment_id: str = "inv-1", money: Money = ASKED, **more: Any
) -> PaymentContext:
    """A charge by card."""
    return PaymentContext(
        tenant_id="acme",
        payment_id=payment_id,
        idempotency_key=key,
        money=money,
        payment_option_key="card.mada",
        instrument_token="tok_visa",
        **more,
    )

"""
A seeded simulation of the core: many payments, many processes, and everything that goes wrong.

What runs is the code that ships, taken apart into steps (``tests.simulation.steps``), over the
stores in memory. One random generator decides all else: who goes on when, how long anything takes,
what is lost, who dies or sleeps past its lease, how wrong its clock is, what the provider does and
in which order it tells of it. Time is simulated. One seed is one run, step for step.

Up to ``TROUBLE_S`` anything may happen; from then on nothing more goes wrong, and everything has to
come to its end.
"""

import heapq
import json
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from functools import partial
from typing import Any, Final
from uuid import UUID

import attrs

from railcore.context import PaymentContext
from railcore.delivery import BucketLease
from railcore.enums import ExecutionStatus, Operation
from railcore.errors import (
    DeliveryError,
    InProgressError,
    OutcomeUnknownError,
    RefusedError,
    SendDeadlinePassed,
    StoreError,
    TransportError,
)
from railcore.execution import PaymentExecution
from railcore.http import HttpResponse
from railcore.kernel import EngineSettings
from railcore.money import SAR, Money
from railcore.procedures import Procedure
from railcore.protocol import Due
from railcore.relay import RelaySettings, _Relaying
from railcore.routing import TimingBounds
from railcore.testing.inbox import InMemoryWebhookInbox
from railcore.testing.memory import InMemoryExecutionStore
from railcore.testing.outbox import InMemoryOutbox
from railcore.webhooks import InboxState, WebhookSettings
from railcore_adapters import standard_webhooks
from tests.simulation.steps import (
    SECRET,
    Ask,
    Asking,
    Process,
    ProcessClock,
    Provider,
    Sending,
    Stepped,
    at,
    charge,
    process,
    seconds_at,
    stepped,
)

TROUBLE_S: Final = 60.0
END_S: Final = 400.0
TIMING: Final = TimingBounds(
    send_deadline_s=2, latest_arrival_s=3, read_lag_s=2, key_window_s=40, answer_timeout_s=2
)
KEYED: Final = Provider(timing=TIMING)
PLAIN: Final = Provider(timing=attrs.evolve(TIMING, key_window_s=None), is_idempotent=False)
FORGETFUL: Final = Provider(
    timing=TimingBounds(
        send_deadline_s=1, latest_arrival_s=1, read_lag_s=6, key_window_s=4, answer_timeout_s=2
    )
)
PROVIDERS: Final = (KEYED, PLAIN, FORGETFUL)
_SETTINGS: Final = EngineSettings(
    lease_s=6, first_check_s=1, last_check_s=3, send_within_s=30, breaker=None
)
_HEARING: Final = WebhookSettings(lease_s=4, first_retry_s=1, last_retry_s=8)
_RELAYING: Final = RelaySettings(lease_s=4, first_retry_s=1, last_retry_s=4, attempts=1000)
_EXPECTED: Final = (OutcomeUnknownError, StoreError, InProgressError, RefusedError, DeliveryError)
_KINDS: Final = {
    "charges": Operation.CHARGE,
    "authorizations": Operation.AUTHORIZE,
    "captures": Operation.CAPTURE,
    "voids": Operation.VOID,
    "refunds": Operation.REFUND,
}
_FIRST: Final = (Operation.CHARGE, Operation.AUTHORIZE)
_STORY: Final = 60


class Broken(Exception):
    """Something that must always hold does not."""


class Fate(StrEnum):
    """What the provider makes of an order."""

    SUCCEEDED = "succeeded"
    DECLINED = "declined"
    PENDING = "pending"


@attrs.define
class Line:
    """A line in the provider's ledger."""

    id: str
    operation: Operation
    key: str
    of: str | None
    amount_minor: int
    at_s: float
    status: Fate
    changed_s: float

    def shown(self, amount_minor: int | None = None) -> dict[str, object]:
        """Return it as it goes over the wire."""
        kinds = {"authorize": "authorization"}
        return {
            "object": kinds.get(self.operation, self.operation.value),
            "id": self.id,
            "status": self.status.value,
            "reference": self.key,
            "amount_minor": self.amount_minor if amount_minor is None else amount_minor,
            "currency": "SAR",
        }


@attrs.define(eq=False)
class Machine:
    """A process of the host's: its clock, its procedures, and whether it lives."""

    name: str
    run: Process
    clock: ProcessClock
    relaying: _Relaying
    is_alive: bool = True


@attrs.define(eq=False)
class Actor:
    """A procedure on its way on some machine."""

    name: str
    machine: Machine
    steps: Stepped[Any]
    then: Callable[[Any], None]


@attrs.define
class Order:
    """One thing that a host wants, under one key."""

    key: str
    payment_id: str
    operation: Operation
    amount_minor: int
    token: str
    parent: str | None = None
    is_enqueued: bool = False

    def context(self, parent_id: UUID | None) -> PaymentContext:
        """Return it as the host asks for it."""
        more: dict[str, Any] = {} if self.parent is None else {"instrument_token": None}
        return attrs.evolve(
            charge(self.key, self.payment_id, Money(self.amount_minor, SAR)),
            operation=self.operation,
            parent_execution_id=parent_id,
            instrument_token=more.get("instrument_token", self.token),
        )


@attrs.frozen(kw_only=True)
class Played:
    """What a run came to."""

    seed: int
    counts: Counter[str]
    problem: str | None
    story: Sequence[str]

    def __str__(self) -> str:
        told = [] if self.problem is None else [*self.story, f"Broken: {self.problem}."]
        return "\n".join([f"RAILCORE_SIMULATION_SEED={self.seed}: {dict(self.counts)}", *told])


def play(seed: int, *, provider: Provider | None = None, checks_rules: bool = True) -> Played:
    """Play one run, and judge it; without *checks_rules* only by what the rules protect."""
    world = World(seed, provider, checks_rules=checks_rules)
    problem = None
    try:
        world.play()
    except Broken as broken:
        problem = str(broken)
    return Played(seed=seed, counts=world.counts, problem=problem, story=tuple(world.story))


class World:
    """One run."""

    def __init__(self, seed: int, provider: Provider | None, *, checks_rules: bool) -> None:
        self.chance = random.Random(seed)
        self.checks_rules = checks_rules
        self.t = 0.0
        self.counts = Counter[str]()
        self.story = deque[str](maxlen=_STORY)
        self._agenda: list[tuple[float, int, bool, Callable[[], None]]] = []
        self._number = 0
        clock = ProcessClock(lambda: self.t)
        self.store = InMemoryExecutionStore(clock)
        self.inbox = InMemoryWebhookInbox(clock)
        self.outbox = InMemoryOutbox(self.store, clock)
        self.provider = provider or self.chance.choice(PROVIDERS)
        self.psp = Psp(self)
        self.sink = Sink()
        self.machines: list[Machine] = []
        self.roughness = self.chance.choice((0.5, 1.0, 2.5))
        self.sleepiness = self.chance.choice((0.0, 0.02, 0.1))
        self._in_the_foreground = 0

    # ------------------------------------------------------------------ time

    def later(
        self, seconds: float, action: Callable[[], None], *, is_background: bool = False
    ) -> None:
        """Do *action* so many seconds from now; nothing waits for what is in the background."""
        self._number += 1
        self._in_the_foreground += not is_background
        heapq.heappush(self._agenda, (self.t + seconds, self._number, is_background, action))

    @property
    def is_trouble(self) -> bool:
        """Whether anything may still go wrong."""
        return self.t < TROUBLE_S

    def may(self, probability: float) -> bool:
        """Toss a coin, as long as there is trouble; there is more of it in some runs."""
        return self.is_trouble and self.chance.random() < probability * self.roughness

    def a_while(self) -> float:
        """Return how long a step takes: mostly nothing, sometimes longer than a lease."""
        if self.may(self.sleepiness):
            self.counts["pauses past a lease"] += 1
            return self.chance.uniform(6, 14)
        return self.chance.uniform(0.3, 2.5) if self.may(0.05) else self.chance.uniform(0, 0.03)

    def tell(self, who: str, text: str) -> None:
        """Note what happened, for the story."""
        self.story.append(f"t={self.t:7.3f} {who} {text}")

    def play(self) -> None:
        """Let everything happen, then judge how it ended."""
        for _ in range(3):
            self.start_machine()
        for number in range(self.chance.randint(2, 4)):
            Client(self, f"pay-{number}").start()
        self.later(1.0, self.work, is_background=True)
        self.later(self.chance.uniform(3, 20), self.crash)
        while self.t < END_S and not self._is_over():
            self.t, _, is_background, action = heapq.heappop(self._agenda)
            self._in_the_foreground -= not is_background
            action()
        Judge(self).at_the_end()

    def _is_over(self) -> bool:
        """Return whether nothing is left that anybody waits for."""
        return (
            not self.is_trouble
            and not self._in_the_foreground
            and not self.store.outbox
            and not any(one.is_open for one in self.store._executions.values())
            and not any(one.due_at is not None for one in self.inbox._kept.values())
        )

    # ------------------------------------------------------------------ processes

    def start_machine(self) -> None:
        """Start a process, with a clock of its own."""
        number = self.counts["processes"] = self.counts["processes"] + 1
        clock = ProcessClock(lambda: self.t, self.chance.choice((0.0, 0.0, -100.0, 100.0)))
        owner = f"process-{number}"
        run = process(
            self.provider,
            attrs.evolve(_SETTINGS, owner=owner),
            clock,
            lambda: UUID(int=self.chance.getrandbits(128), version=4),
            chance=self.chance.random,
            webhooks=_HEARING,
        )
        outbox: Any = Asking("outbox")
        sink: Any = Asking("sink")
        settings = attrs.evolve(_RELAYING, owner=owner)
        relaying = _Relaying(
            outbox, sink, settings, clock, self.chance.random, None, _one_after_the_other
        )
        self.machines.append(Machine(owner, run, clock, relaying))

    def crash(self) -> None:
        """Kill a process, and start another one; what it sent stays on the road."""
        if not self.is_trouble:
            return
        victim = self.chance.choice(self.machines)
        victim.is_alive = False
        self.machines.remove(victim)
        self.counts["crashes"] += 1
        self.tell(victim.name, "dies")
        self.later(self.chance.uniform(0, 3), self.start_machine)
        self.later(self.chance.uniform(2, 15), self.crash)

    def work(self) -> None:
        """Let some process do a round of some duty; for ever."""
        if self.machines:
            machine = self.chance.choice(self.machines)
            duty = self.chance.choice(("work", "inbox", "relay", "browser returns"))
            run = machine.run
            programs: dict[str, Callable[[], Procedure[Any]]] = {
                "browser returns": lambda: _coming_back(self, run),
                "work": lambda: _checking(run, machine.name),
                "inbox": lambda: run.intake.apply_due(2),
                "relay": machine.relaying.run,
            }
            self.begin(machine, duty, programs[duty](), lambda _: None)
        self.later(self.chance.uniform(0.05, 0.6), self.work, is_background=True)

    def begin(
        self, machine: Machine, name: str, procedure: Procedure[Any], then: Callable[[Any], None]
    ) -> None:
        """Run *procedure* on *machine*; *then* hears its result, its error, or None if it died."""
        actor = Actor(f"{machine.name}/{name}", machine, stepped(procedure), then)
        self._resume(actor, None)

    def _resume(self, actor: Actor, answer: Any) -> None:
        """Let *actor* hear *answer* and take its next step."""
        if not actor.machine.is_alive:
            actor.then(None)
            return
        self.counts["steps"] += 1
        self.counts["seconds"] = int(self.t)
        try:
            if isinstance(answer, Exception):
                step = actor.steps.throw(answer)
            else:
                step = actor.steps.send(answer)
        except StopIteration as end:
            actor.then(end.value)
        except _EXPECTED as error:
            self.tell(actor.name, f"ends with {type(error).__name__}")
            actor.then(error)
        except Exception as error:
            raise Broken(f"a procedure broke: {type(error).__name__}: {error}") from error
        else:
            self._take(actor, step)

    def _take(self, actor: Actor, step: Ask | Sending) -> None:
        if isinstance(step, Sending):
            send = self.psp.take if step.request.moves_money else self.psp.look_up
            wait_s = self.chance.uniform(0, 2.1) if self.may(0.3) else self.a_while()
            self.later(wait_s, lambda: send(actor, step))
        elif step.port == "provider":
            self.later(self.a_while(), lambda: self.psp.hear_thanks(actor, step.args[0]))
        elif step.port == "sink":
            self.later(self.a_while(), lambda: self._deliver(actor, step))
        else:
            self.later(self.a_while(), lambda: self._carry_out(actor, step))

    def hear(self, actor: Actor, answer: Any, seconds: float | None = None) -> None:
        """Let *actor* go on with *answer* in a while."""
        wait_s = self.a_while() if seconds is None else seconds
        self.later(wait_s, lambda: self._resume(actor, answer))

    def _carry_out(self, actor: Actor, step: Ask) -> None:
        """Carry out what is asked of a store: whole, or not at all, or whole without an answer."""
        if not actor.machine.is_alive and self.chance.random() < 0.5:
            actor.then(None)
            return
        if self.may(0.01):
            self.tell(actor.name, f"loses the store: {step.name} was not committed")
            self.hear(actor, StoreError("the connection was lost", may_have_committed=False))
            return
        port = {"store": self.store, "inbox": self.inbox, "outbox": self.outbox}[step.port]
        before = dict(self.store._executions)
        try:
            answer = step.of(port)
        except RefusedError as error:
            answer = error
        except Exception as error:
            raise Broken(f"the store broke: {type(error).__name__}: {error}") from error
        self.tell(actor.name, f"{step.port}.{step.name} -> {_told(answer)}")
        Judge(self).of_a_step(before, step)
        if self.may(0.01):
            self.tell(actor.name, "loses that answer")
            answer = StoreError("the connection was lost", may_have_committed=True)
        self.hear(actor, answer)

    def _deliver(self, actor: Actor, step: Ask) -> None:
        if self.may(0.1):
            self.hear(actor, DeliveryError("the sink takes nothing"))
            return
        self.sink.take(step.args[0])
        lost = DeliveryError("no answer") if self.may(0.05) else None
        self.hear(actor, lost)


def _one_after_the_other(deliveries: Sequence[Callable[[], Procedure[None]]]) -> Iterator[Any]:
    for begin in deliveries:
        yield from stepped(begin())


def _checking(run: Process, owner: str) -> Procedure[None]:
    """What a worker does with what is due."""
    kernel = run.procedures.kernel
    started_s = kernel.clock.monotonic()
    due = Due(owner=owner, lease_s=kernel.settings.lease_s, limit=2)
    for acquired in (yield from run.procedures.acquire_due(due)):
        yield from run.procedures.check(acquired, started_s)


def _coming_back(world: World, run: Process) -> Procedure[None]:
    """What a host does when a payer comes back from the provider's page."""
    waiting = [one for one in world.store._executions.values() if one.is_open]
    if waiting:
        one = world.chance.choice(waiting)
        yield from run.procedures.refresh(one.tenant_id, one.execution_id)


def _told(answer: Any) -> str:
    match answer:
        case PaymentExecution():
            return f"{answer.idempotency_key} {answer.status} v{answer.version}"
        case BucketLease() | None | bool():
            return str(answer)
        case list() | tuple():
            return f"{len(answer)} of them"
        case _:
            return str(getattr(answer, "verdict", type(answer).__name__))


@attrs.define
class Sink:
    """Remembers each event that it took."""

    highest: defaultdict[str, int] = attrs.field(factory=lambda: defaultdict(int))
    repeated: int = 0

    def take(self, event: Any) -> None:
        """Take an event: never one before those of its payment that come first."""
        seen = self.highest[event.payment_id]
        if event.seq > seen + 1:
            raise Broken(f"I7: the sink had {seen} events of {event.payment_id}, got {event.seq}")
        self.repeated += event.seq <= seen
        self.highest[event.payment_id] = max(seen, event.seq)


class Psp:
    """A card provider that keeps its promises about time, and none about anything else."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.timing = world.provider.timing
        self.lines: list[Line] = []
        self.departures = Counter[str]()
        self.turned_away = Counter[str]()
        self.thanked = set[str]()
        self.tells_late_s = world.chance.choice((2.0, 12.0, 45.0))
        self.lags = world.chance.choice((0.2, 0.9))
        self.forgets = world.chance.random() < 0.1
        self.lies = world.chance.random() < 0.1

    # ------------------------------------------------------------------ orders

    def take(self, actor: Actor, step: Sending) -> None:
        """Let a request that moves money leave, if it still may."""
        world = self.world
        assert step.send_by is not None
        if not actor.machine.is_alive:
            actor.then(None)
            return
        if step.send_by.has_passed():
            world.tell(actor.name, "is too late and sends nothing")
            late = SendDeadlinePassed("the send deadline passed", may_have_left=False)
            world.hear(actor, late)
            return
        if world.may(0.03):
            world.hear(actor, TransportError("connection refused", may_have_left=False))
            return
        key = step.request.headers["Idempotency-Key"]
        Judge(world).of_a_departure(step.execution, self.departures[key], self.turned_away[key])
        self.departures[key] += 1
        world.counts["requests"] += 1
        world.tell(actor.name, f"sends {step.execution.idempotency_key}")
        if world.may(0.06):
            self._nothing_comes(actor, 0.0)
            return
        road_s = world.chance.uniform(0, self.timing.latest_arrival_s if world.may(0.4) else 0.1)
        world.later(road_s, lambda: self._arrive(actor, step, road_s))

    def _nothing_comes(self, actor: Actor, waited_s: float) -> None:
        self.world.counts["answers lost"] += 1
        silence = TransportError("no answer", may_have_left=True)
        self.world.hear(actor, silence, max(0.0, self.timing.answer_timeout_s - waited_s))

    def _arrive(self, actor: Actor, step: Sending, road_s: float) -> None:
        world = self.world
        body = json.loads(step.request.body)
        key = step.request.headers["Idempotency-Key"]
        if world.may(0.03):
            self.turned_away[key] += 1
            body = json.dumps({"error": {"code": "unavailable"}}).encode()
            world.hear(actor, HttpResponse(status=503, body=body))
            return
        line = self._remembered(key)
        if line is None:
            operation = _KINDS[step.request.url.rpartition("/")[2]]
            line = self._order(operation, key, body)
        if world.may(0.2) or road_s > self.timing.answer_timeout_s:
            self._nothing_comes(actor, road_s)
        elif world.may(0.04):
            world.hear(actor, HttpResponse(status=500, body=b"<html>"))
        else:
            status = 402 if line.status is Fate.DECLINED else 201
            shown = json.dumps(line.shown(self._lied(line))).encode()
            world.hear(actor, HttpResponse(status=status, body=shown))

    def _lied(self, line: Line) -> int:
        is_lie = self.lies and self.world.may(0.2)
        self.world.counts["lies"] += is_lie
        return line.amount_minor + is_lie

    def _remembered(self, key: str) -> Line | None:
        if not self.world.provider.is_idempotent:
            return None
        window_s = self.timing.key_window_s
        for line in reversed(self.lines):
            is_known = window_s is None or self.world.t < line.at_s + window_s
            if line.key == key and is_known:
                return line
        return None

    def _order(self, operation: Operation, key: str, body: dict[str, Any]) -> Line:
        world = self.world
        fate = world.chance.choices(tuple(Fate), (8, 1, 2))[0]
        line = Line(
            id=f"{operation.value[:2]}_{len(self.lines)}",
            operation=operation,
            key=key,
            of=body.get("of"),
            amount_minor=body["amount_minor"],
            at_s=world.t,
            status=fate,
            changed_s=world.t,
        )
        self.lines.append(line)
        world.tell("provider", f"{line.id} {operation} of {line.amount_minor} is {fate}")
        self._tell_of(line)
        if fate is Fate.PENDING:
            world.later(world.chance.uniform(0.5, 40), lambda: self._settle(line))
        return line

    def _settle(self, line: Line) -> None:
        line.status = self.world.chance.choice((Fate.SUCCEEDED, Fate.DECLINED))
        line.changed_s = self.world.t
        self.world.tell("provider", f"{line.id} is {line.status} now")
        self._tell_of(line)

    # ------------------------------------------------------------------ lookups

    def look_up(self, actor: Actor, step: Sending) -> None:
        """Answer a lookup: as it is, or as it was up to the read lag ago."""
        world = self.world
        if world.may(0.1):
            self._nothing_comes(actor, 0.0)
            return
        if self.forgets and world.may(0.5):
            world.counts["forgotten"] += 1
            world.hear(actor, HttpResponse(status=200, body=b'{"data": []}'))
            return
        key = step.request.url.rpartition("reference=")[2]
        lag_s = self.timing.read_lag_s if world.may(self.lags) else 0.0
        seen = [one for one in self.lines if one.key == key and one.at_s + lag_s <= world.t]
        shown = [one.shown(self._lied(one)) for one in seen if one.changed_s + lag_s <= world.t]
        early = [
            {**one.shown(), "status": "pending"} for one in seen if one.changed_s + lag_s > world.t
        ]
        body = json.dumps({"data": [*shown, *early]}).encode()
        world.hear(actor, HttpResponse(status=200, body=body))

    # ------------------------------------------------------------------ webhooks

    def _tell_of(self, line: Line) -> None:
        """Tell of *line* as it is now, in any order, until somebody says that it was taken."""
        name = f"evt_{line.id}_{line.status.value}"
        data = line.shown()
        for _ in range(1 + (self.world.chance.random() < 0.2)):
            wait_s = self.world.chance.uniform(0, self.tells_late_s)
            self.world.later(wait_s, lambda: self._knock(name, data))

    def _knock(self, name: str, data: dict[str, object]) -> None:
        world = self.world
        again_s = world.chance.uniform(1, 6)
        if not world.machines or world.may(0.1):
            world.later(again_s, lambda: self._knock(name, data))
            return
        if name in self.thanked and not world.may(0.2):
            return
        machine = world.chance.choice(world.machines)
        body = json.dumps({"id": name, "type": "charge.updated", "data": data}).encode()
        stamp = int(at(world.t).timestamp())
        headers = {
            standard_webhooks.ID: name,
            standard_webhooks.TIMESTAMP: str(stamp),
            standard_webhooks.SIGNATURE: standard_webhooks.sign(SECRET, name, stamp, body),
        }

        def ended(_: Any) -> None:
            if name not in self.thanked:
                world.later(again_s, lambda: self._knock(name, data))

        world.counts["deliveries"] += 1
        hearing = _hearing(machine.run, name, headers, body)
        world.begin(machine, "webhook", hearing, ended)

    def hear_thanks(self, actor: Actor, name: str) -> None:
        """Hear that news was taken: it is told no more, whatever becomes of who took it."""
        if actor.machine.is_alive:
            Judge(self.world).of_thanks(name)
            self.thanked.add(name)
        self.world.hear(actor, None)


def _hearing(run: Process, name: str, headers: dict[str, str], body: bytes) -> Procedure[str]:
    """Take a delivery, say so, and apply it."""
    receipt = yield from run.intake.receive("stub", headers, body, "main")
    yield lambda: Ask("provider", "acknowledge", (name,))
    yield from run.intake.apply(receipt)
    return name


class Client:
    """Wants one payment and what follows it; asks again, under the same key, until it knows."""

    def __init__(self, world: World, payment_id: str) -> None:
        self.world = world
        self.payment_id = payment_id
        self.waiting = deque(self._plan())

    def _plan(self) -> Iterator[Order]:
        chance, name = self.world.chance, self.payment_id
        is_held = chance.random() < 0.4
        first = Operation.AUTHORIZE if is_held else Operation.CHARGE
        enqueued = chance.random() < 0.4
        yield Order(f"{name}/1", name, first, 1000, "tok_visa", is_enqueued=enqueued)
        if is_held and chance.random() < 0.3:
            yield Order(f"{name}/v", name, Operation.VOID, 1000, "", f"{name}/1")
        taken = f"{name}/1"
        if is_held:
            taken = f"{name}/c"
            yield Order(taken, name, Operation.CAPTURE, 1000, "", f"{name}/1")
        for number in range(chance.randint(0, 3)):
            amount = chance.choice((300, 700, 1000))
            key = f"{name}/r{number}"
            yield Order(key, name, Operation.REFUND, amount, "", taken, chance.random() < 0.4)

    def start(self) -> None:
        """Begin sooner or later; sometimes twice at a time."""
        for _ in range(1 + (self.world.chance.random() < 0.3)):
            self.world.later(
                self.world.chance.uniform(0, 20), partial(self._next, deque(self.waiting))
            )

    def _next(self, orders: deque[Order]) -> None:
        world = self.world
        if not orders:
            return
        order = orders[0]
        parent = None if order.parent is None else world.store.find("acme", order.parent)
        if order.parent is not None and parent is None:
            return
        if not world.machines:
            world.later(1.0, lambda: self._next(orders))
            return
        machine = world.chance.choice(world.machines)
        context = order.context(None if parent is None else parent.execution_id)
        if world.may(0.03):
            context = attrs.evolve(context, money=Money(order.amount_minor + 1, SAR))
        run = machine.run.procedures
        asking = (
            run.enqueue(context, at(world.t + 30)) if order.is_enqueued else run.execute(context)
        )
        world.begin(machine, "host", asking, lambda outcome: self._heard(orders, outcome))

    def _heard(self, orders: deque[Order], outcome: Any) -> None:
        """Go on with the next order, or ask again for this one."""
        is_known = isinstance(outcome, PaymentExecution) and not outcome.is_open
        is_refused = isinstance(outcome, RefusedError)
        if is_known or (is_refused and not self.world.may(0.5)):
            orders.popleft()
        self.world.later(self.world.chance.uniform(0.2, 4), lambda: self._next(orders))


@attrs.frozen
class Judge:
    """What must always hold; see the invariants by their numbers."""

    world: World

    def of_a_step(self, before: dict[Any, PaymentExecution], step: Ask) -> None:
        """Judge what a step of a store made of it."""
        for name, now in self.world.store._executions.items():
            was = before.get(name)
            if now is was:
                continue
            if was is not None and not was.is_open and was.status is not now.status:
                raise Broken(f"I5: {now.idempotency_key} left {was.status} for {now.status}")
            if now.is_open is (now.next_check_at is None):
                raise Broken(f"I6: nobody will look at {now.idempotency_key}")
            if self.world.checks_rules and was is not None:
                self._of_the_fence(was, now, step)

    def _of_the_fence(self, was: PaymentExecution, now: PaymentExecution, step: Ask) -> None:
        if step.name not in {"mark_sent", "reschedule", "put_back", "record"} or not now.is_open:
            return
        first = step.args[0]
        held = first if isinstance(first, PaymentExecution) else first.before
        moved = (was.lease, was.send_count) != (now.lease, now.send_count)
        if moved and was.lease.token != held.lease.token:
            raise Broken(f"I14: an old token moved the lease of {now.idempotency_key}")

    def of_a_departure(self, execution: PaymentExecution, left: int, turned_away: int) -> None:
        """Judge whether a request may leave now."""
        if not self.world.checks_rules:
            return
        timing, t = self.world.provider.timing, self.world.t
        stored = self.world.store.get(execution.tenant_id, execution.execution_id)
        if stored is None or stored.send_count <= left:
            raise Broken("I9: a request left before its send mark was committed")
        first, last = execution.first_sent_at, execution.last_sent_at
        assert first is not None
        assert last is not None
        if t - seconds_at(last) > timing.send_deadline_s + 1e-6:
            raise Broken("I10: a request left after its send deadline (R2)")
        if left == turned_away:
            return
        if not self.world.provider.is_idempotent:
            raise Broken("I10: a second request left for a provider that knows no keys (R3)")
        since_s = t - seconds_at(first)
        window_s = timing.key_window_s
        if window_s is not None and since_s + timing.latest_arrival_s >= window_s:
            raise Broken("I10: a request left that may arrive after the key window (R3)")

    def of_thanks(self, name: str) -> None:
        """Judge whether the provider may be told that its news was taken."""
        if all(one.item.event_id != name for one in self.world.inbox._kept.values()):
            raise Broken(f"I13: {name} was acknowledged, and is not stored")

    def at_the_end(self) -> None:
        """Judge what everything came to."""
        by_key = defaultdict[str, list[Line]](list)
        for line in self.world.psp.lines:
            by_key[line.key].append(line)
        executions = tuple(self.world.store._executions.values())
        for execution in executions:
            self._of_one(execution, by_key.pop(execution.provider_key, []))
        if by_key:
            raise Broken(f"I9: the provider did what is stored nowhere: {sorted(by_key)}")
        self._of_the_sums(executions)
        self._of_the_journal(executions)
        self._of_the_inbox()
        self.world.counts["executions"] += len(executions)
        self.world.counts["events"] += sum(self.world.sink.highest.values())
        self.world.counts["events again"] += self.world.sink.repeated

    def _of_one(self, execution: PaymentExecution, lines: Sequence[Line]) -> None:
        name = execution.idempotency_key
        taken = [line for line in lines if line.status is Fate.SUCCEEDED]
        noted = [
            one
            for one in self.world.store._discrepancies.values()
            if one.discrepancy.execution_id == execution.execution_id
        ]
        if len(taken) > 1:
            raise Broken(f"I1: {name} was carried out {len(taken)} times")
        if execution.is_open:
            raise Broken(f"I21: {name} is still {execution.status} ({execution.pending_reason})")
        if noted:
            self.world.counts["discrepancies"] += 1
            if self.world.psp.forgets or self.world.psp.lies:
                return
            raise Broken(f"I11: {name} was contradicted, by a provider that tells the truth")
        if execution.status is ExecutionStatus.FAILED and taken:
            raise Broken(f"I11: {name} is failed ({execution.failure}), and was carried out")
        if execution.status is ExecutionStatus.COMPLETED and not taken:
            raise Broken(f"I11: {name} is completed, and was not carried out")
        if taken and execution.settled_minor != taken[0].amount_minor:
            raise Broken(f"I20: {name} has another amount than the provider")
        if taken and taken[0].amount_minor != execution.money.amount_minor:
            raise Broken(f"I2: {name} moved another amount than was asked")

    def _of_the_sums(self, executions: Sequence[PaymentExecution]) -> None:
        """
        I16: nothing was captured or refunded beyond what there was, by the provider's ledger.

        Who forgets longer than it declares lets us fail what it did: that is noted, and too late.
        """
        if self.world.psp.forgets:
            return
        done = defaultdict[tuple[str, Operation], int](int)
        names = {one.provider_key: one.payment_id for one in executions}
        for line in self.world.psp.lines:
            if line.status is Fate.SUCCEEDED:
                done[names[line.key], line.operation] += line.amount_minor
        for payment in set(names.values()):
            held = done[payment, Operation.AUTHORIZE]
            taken = done[payment, Operation.CAPTURE]
            if taken + done[payment, Operation.VOID] > held:
                raise Broken(f"I16: {payment}: {held} held, {taken} captured and the rest voided")
            paid = done[payment, Operation.CHARGE] + taken
            if done[payment, Operation.REFUND] > paid:
                raise Broken(f"I16: {payment}: {paid} paid, more than that refunded")

    def _of_the_journal(self, executions: Sequence[PaymentExecution]) -> None:
        versions = defaultdict[UUID, list[int]](list)
        for (_, payment_id), events in self.world.store._events.items():
            if [one.seq for one in events] != list(range(1, len(events) + 1)):
                raise Broken(f"I3: the journal of {payment_id} has a gap")
            for event in events:
                if event.version is not None:
                    versions[event.execution_id].append(event.version)
            if self.world.sink.highest[payment_id] != len(events):
                raise Broken(f"I8: not all events of {payment_id} were delivered")
        for one in executions:
            if versions[one.execution_id] != list(range(1, one.version + 1)):
                raise Broken(f"I4: {one.idempotency_key} has not one event for each version")

    def _of_the_inbox(self) -> None:
        kept = self.world.inbox._kept.values()
        names = {one.item.event_id for one in kept}
        for line in self.world.psp.lines:
            if f"evt_{line.id}_{line.status.value}" not in names:
                raise Broken(f"I13: news of {line.id} was taken and is not stored")
        if any(one.state is InboxState.RECEIVED for one in kept):
            raise Broken("I13: a delivery was never applied")

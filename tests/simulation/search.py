"""
An exhaustive search over the real core: everything that can happen to one payment, breadth first.

What is searched is the code that ships. The procedures, the kernel, the lifecycle, the card rail,
the intake and the stores in memory all run as they are; the harness only decides *what happens
next*: whose step, which message arrives, what is lost, who dies, when a second passes.

A state is made of

- the time, in whole seconds, which moves only when the search lets it;
- the store (and the inbox), as the real stores hold it;
- each process: which procedure it is in, and every answer that it has had so far. A procedure is a
  pure function of its answers and of the times at which they came, so that this *is* its state; it
  is copied by running it again on the same answers;
- requests on the road, and the provider's ledger: what was charged, when, under which key;
- how many faults are still allowed.

Two reductions lose nothing. Hearing an answer touches nobody else, so that an answer is heard at
once or not before the next second. Workers are alike, so that states that differ in which of them
does what are one.
"""

import gc
import json
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar
from uuid import UUID

import attrs

from railcore.context import PaymentContext
from railcore.enums import ExecutionStatus
from railcore.errors import (
    InProgressError,
    OutcomeUnknownError,
    RefusedError,
    SendDeadlinePassed,
    StoreError,
    TransportError,
)
from railcore.execution import Lease, PaymentExecution
from railcore.http import HttpResponse
from railcore.kernel import EngineSettings
from railcore.procedures import Procedure
from railcore.protocol import Due
from railcore.testing import memory
from railcore.testing.inbox import InMemoryWebhookInbox
from railcore.webhooks import WebhookSettings
from railcore_adapters import standard_webhooks
from tests.simulation.steps import (
    NOW,
    SECRET,
    Ask,
    Process,
    ProcessClock,
    Provider,
    Sending,
    Stepped,
    at,
    charge,
    process,
    stepped,
)

Value = TypeVar("Value", bound=Hashable)
OWNER: Final = "worker"


class Allowed(NamedTuple):
    """
    How many faults may still happen, each kind for itself.

    ``calls`` are those of hosts with the same key, ``deliveries`` those of webhooks. ``slow``
    answers come a second or more late, ``lost`` ones (or their requests) never; ``mute`` lookups
    get no answer; ``refused`` requests are turned away undone; ``errors`` are 500 after a charge;
    ``declined`` charges move nothing; ``store`` loses an answer, before or after the commit.
    """

    calls: int = 1
    deliveries: int = 0
    crashes: int = 0
    slow: int = 0
    lost: int = 0
    mute: int = 0
    refused: int = 0
    errors: int = 0
    declined: int = 0
    store: int = 0

    def less(self, name: str) -> "Allowed":
        """Return what is left after one of these."""
        return self._replace(**{name: getattr(self, name) - 1})


@attrs.frozen(kw_only=True)
class Scenario:
    """
    What is searched.

    Attributes:
        hosts: How many may ask at the same time, all with the same key.
        is_enqueued: Whether they enqueue for a worker, rather than execute.
        until_s: No second passes after that one.
        kernel_settings: Leases and looks of every process.
        checks_rules: Whether what each rule forbids is a counter-example by itself, and not only
            what it protects.
    """

    name: str
    provider: Provider
    hosts: int = 1
    workers: int = 2
    receivers: int = 0
    is_enqueued: bool = False
    until_s: int = 10
    send_within_s: int = 6
    allowed: Allowed = attrs.field(factory=Allowed)
    settings: EngineSettings = EngineSettings(
        owner=OWNER, lease_s=3, first_check_s=1, last_check_s=2, breaker=None
    )
    checks_rules: bool = True


class Charge(NamedTuple):
    """A line in the provider's ledger."""

    key: str
    arrived_at: int
    amount_minor: int
    is_declined: bool


class Ledger(NamedTuple):
    """What the provider knows: charges, requests that left for it, and events that were taken."""

    charges: tuple[Charge, ...] = ()
    left: int = 0
    turned_away: int = 0
    acknowledged: tuple[str, ...] = ()

    @property
    def taken(self) -> Sequence[Charge]:
        """The charges that moved money."""
        return [one for one in self.charges if not one.is_declined]


class Request(NamedTuple):
    """A request that moves money, on the road; ``is_lost`` when no answer will ever come."""

    key: str
    amount_minor: int
    left_at: int
    is_lost: bool = False


class Actor(NamedTuple):
    """
    A process at one of its steps; node 0 is idle.

    ``heard`` is an answer that waits to be heard, and since when.
    """

    node: int = 0
    heard: tuple[int, int] | None = None
    request: Request | None = None


IDLE: Final = Actor()


class State(NamedTuple):
    """Everything, as numbers of what the tables hold."""

    t: int
    store: int
    actors: tuple[int, ...]
    strays: tuple[Request, ...]
    ledger: int
    allowed: int


class Local(NamedTuple):
    """What one step of one process makes of it and of what it touches."""

    text: str
    actor: int
    store: int
    ledger: int
    allowed: int
    stray: Request | None = None
    problem: str | None = None


class Child(NamedTuple):
    """A step, and the state after it."""

    who: int
    text: str
    state: State
    problem: str | None


class Failed(NamedTuple):
    """An answer that is an error."""

    kind: str

    @property
    def error(self) -> Exception:
        return _ERRORS[self.kind]()


_ERRORS: Final[Mapping[str, Callable[[], Exception]]] = {
    "timeout": lambda: TransportError("no answer", may_have_left=True),
    "refused": lambda: TransportError("connection refused", may_have_left=False),
    "deadline": lambda: SendDeadlinePassed("the send deadline passed", may_have_left=False),
    "uncommitted": lambda: StoreError("the connection was lost", may_have_committed=False),
    "committed": lambda: StoreError("the connection was lost", may_have_committed=True),
}
_EXPECTED: Final = (OutcomeUnknownError, StoreError, InProgressError, RefusedError)
"""How a procedure may end without a result."""


class Table(Generic[Value]):
    """Gives equal values the same number."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self.values: list[Value] = []

    def __getitem__(self, number: int) -> Value:
        return self.values[number]

    def number(self, value: Value, key: Hashable | None = None) -> int:
        """Return the number of *value*, told apart by *key* where one is given."""
        name = value if key is None else key
        found = self._numbers.get(name)
        if found is None:
            found = self._numbers[name] = len(self.values)
            self.values.append(value)
        return found


@attrs.frozen(eq=False)
class Stored:
    """What the stores hold at one moment."""

    executions: dict[tuple[str, UUID], PaymentExecution]
    ids: dict[tuple[str, str], UUID]
    payments: dict[tuple[str, str], Any]
    events: dict[tuple[str, str], list[Any]]
    discrepancies: dict[tuple[str, UUID], Any]
    inbox: dict[Any, Any]

    @property
    def key(self) -> Hashable:
        """All that any step may read; the journal is checked as it grows."""
        return (
            tuple(_without_dates(one) for one in self.executions.values()),
            tuple(self.payments.values()),
            tuple(self.discrepancies),
            tuple(self.inbox.values()),
        )

    @property
    def execution(self) -> PaymentExecution | None:
        """The only one, if it is there."""
        return next(iter(self.executions.values()), None)


def _without_dates(execution: PaymentExecution) -> Hashable:
    """Return what tells executions apart: all but the dates that nothing reads."""
    values = vars(execution)
    return tuple(
        values[name]
        for name in values
        if name not in {"updated_at", "context", "provider_response"}
    )


@attrs.define(eq=False)
class Node:
    """
    A process in the middle of a procedure.

    Attributes:
        log: Each answer it has had, by number, and when it heard it.
        step: What it wants next; None when it has ended.
        live: The generator itself, until one child takes it on.
    """

    program: str
    began_at: int
    log: tuple[tuple[int, int], ...]
    step: Ask | Sending | None = None
    ended_with: object = None
    live: Stepped[Any] | None = None


@attrs.frozen(kw_only=True)
class Story:
    """A counter-example, told step by step."""

    problem: str
    steps: tuple[str, ...]
    stored: str
    ledger: tuple[str, ...]

    def __str__(self) -> str:
        told = [f"{number:>3}. {step}" for number, step in enumerate(self.steps, 1)]
        told.append(f"     Stored here: {self.stored}.")
        told.append(f"     The provider's ledger: {'; '.join(self.ledger)}.")
        told.append(f"     Broken: {self.problem}.")
        return "\n".join(told)


@attrs.frozen(kw_only=True)
class Found:
    """What a search found."""

    scenario: str
    states: int
    steps: int
    took_s: float
    is_exhausted: bool
    story: Story | None

    def __str__(self) -> str:
        rate = self.states / self.took_s if self.took_s else 0.0
        how = "all of them" if self.is_exhausted else "not all of them"
        head = (
            f"{self.scenario}: {self.states:,} distinct states ({how}), {self.steps:,} steps, "
            f"{self.took_s:.1f} s, {rate:,.0f} states a second"
        )
        return f"{head}; {'no counter-example' if self.story is None else 'a counter-example:'}"


class World:
    """One scenario, and everything that can happen in it."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.timing = scenario.provider.timing
        self._t = 0
        self._stores = Table[Stored]()
        self._actors = Table[Actor]()
        self._ledgers = Table[Ledger]()
        self._alloweds = Table[Allowed]()
        self._answers = Table[Any]()
        self._nodes: list[Node] = [Node("idle", 0, ())]
        self._roots: dict[tuple[str, int], int] = {}
        self._children: dict[tuple[int, int, int], int] = {}
        self._steps: dict[tuple[str, int, int, int, int, int], Sequence[Local]] = {}
        self._verdicts: dict[tuple[int, int], str | None] = {}
        self._store_steps: dict[tuple[int, int, int, bool], tuple[int, int, str, str | None]] = {}
        clock = ProcessClock(lambda: float(self._t))
        self._clock = clock
        self._store = memory.InMemoryExecutionStore(clock)
        self._inbox = InMemoryWebhookInbox(clock)
        roles = ["host"] * scenario.hosts + ["worker"] * scenario.workers
        self.roles = tuple(roles + ["receiver"] * scenario.receivers)
        self._alike = slice(scenario.hosts, scenario.hosts + scenario.workers)
        self._processes: dict[str, Process] = {}

    # ------------------------------------------------------------------ the whole

    def start(self) -> State:
        """Return how it begins: nothing is stored, nobody does anything."""
        self._t = 0
        nobody = self._actors.number(IDLE)
        return State(
            0,
            self._stores.number(self._taken(), self._taken().key),
            (nobody,) * len(self.roles),
            (),
            self._ledgers.number(Ledger()),
            self._alloweds.number(self.scenario.allowed),
        )

    def canonical(self, state: State) -> State:
        """Return the state that stands for *state*: workers are alike."""
        actors = state.actors
        workers = actors[self._alike]
        if len(workers) < 2:
            return state
        ordered = tuple(sorted(workers))
        if ordered == workers:
            return state
        start, stop = self._alike.start, self._alike.stop
        return state._replace(actors=actors[:start] + ordered + actors[stop:])

    def children(self, state: State) -> Iterator[Child]:
        """Yield everything that can happen next."""
        t, store, actors, strays, ledger, allowed = state
        for who, actor in enumerate(actors):
            for local in self._locals(self.roles[who], actor, store, ledger, allowed, t):
                after = State(
                    t,
                    local.store,
                    (*actors[:who], local.actor, *actors[who + 1 :]),
                    strays if local.stray is None else tuple(sorted((*strays, local.stray))),
                    local.ledger,
                    local.allowed,
                )
                problem = local.problem or self._verdict(local.store, local.ledger)
                yield Child(who, local.text, after, problem)
        for number, stray in enumerate(strays):
            rest = strays[:number] + strays[number + 1 :]
            later, text = self._arrived(self._ledgers[ledger], stray, t)
            changed = self._ledgers.number(later)
            after = state._replace(strays=rest, ledger=changed)
            yield Child(-1, f"A late request arrives: {text}", after, self._verdict(store, changed))
        if t < self.scenario.until_s and not self._is_over(state):
            yield Child(-1, "", self._later(state), None)

    def _is_over(self, state: State) -> bool:
        """Return whether nothing can happen any more, whatever the time."""
        if state.strays or any(self._actors[one] is not IDLE for one in set(state.actors)):
            return False
        execution = self._stores[state.store].execution
        allowed = self._alloweds[state.allowed]
        if execution is None or allowed.deliveries:
            return False
        return not execution.is_open and not allowed.calls

    def _later(self, state: State) -> State:
        """Return the state a second later: what has not arrived by its time never does."""
        t = state.t + 1
        latest = self.timing.latest_arrival_s
        strays = tuple(one for one in state.strays if t <= one.left_at + latest)
        actors = tuple(self._aged(one, t) for one in state.actors)
        return state._replace(t=t, strays=strays, actors=actors)

    def _aged(self, number: int, t: int) -> int:
        actor = self._actors[number]
        request = actor.request
        if request is None or request.is_lost:
            return number
        if t <= request.left_at + self.timing.latest_arrival_s:
            return number
        return self._actors.number(actor._replace(request=request._replace(is_lost=True)))

    def _verdict(self, store: int, ledger: int) -> str | None:
        name = (store, ledger)
        if name not in self._verdicts:
            self._verdicts[name] = _judged(self._stores[store], self._ledgers[ledger])
        return self._verdicts[name]

    # ------------------------------------------------------------------ one process

    def _locals(  # noqa: PLR0917 - what a step may depend on, and nothing else
        self, role: str, actor: int, store: int, ledger: int, allowed: int, t: int
    ) -> Sequence[Local]:
        name = (role, actor, store, ledger, allowed, t)
        found = self._steps.get(name)
        if found is None:
            moment = Moment(self, role, actor, store, ledger, allowed, t)
            found = self._steps[name] = tuple(moment.steps())
        return found

    def _arrived(
        self, ledger: Ledger, request: Request, t: int, *, is_declined: bool = False
    ) -> tuple[Ledger, str]:
        """Return the ledger once the provider has read *request*, and what it did."""
        known = self.remembered(ledger, request.key, t)
        if known is not None:
            return ledger, f"the provider knows its key and repeats ch_{known}"
        line = Charge(request.key, t, request.amount_minor, is_declined)
        name = f"ch_{len(ledger.charges)}"
        text = f"the provider declines it as {name}" if is_declined else f"money moves as {name}"
        return ledger._replace(charges=(*ledger.charges, line)), text

    def remembered(self, ledger: Ledger, key: str, t: int) -> int | None:
        """Return which charge the provider remembers a key by."""
        if not self.scenario.provider.is_idempotent:
            return None
        window = self.timing.key_window_s
        for number, one in reversed(list(enumerate(ledger.charges))):
            if one.key == key and (window is None or t < one.arrived_at + window):
                return number
        return None

    # ------------------------------------------------------------------ the real code

    def _taken(self) -> Stored:
        """Return what the real stores hold now."""
        store = self._store
        return Stored(
            dict(store._executions),
            dict(store._ids),
            dict(store._payments),
            {name: list(told) for name, told in store._events.items()},
            dict(store._discrepancies),
            dict(self._inbox._kept),
        )

    def _put(self, stored: Stored) -> None:
        """Make the real stores hold *stored*."""
        store = self._store
        store._executions = dict(stored.executions)
        store._ids = dict(stored.ids)
        store._payments = dict(stored.payments)
        store._events = {name: list(told) for name, told in stored.events.items()}
        store._discrepancies = dict(stored.discrepancies)
        store._outbox = []
        self._inbox._kept = dict(stored.inbox)

    def carry_out(
        self, node: int, store: int, t: int, *, is_lost: bool = False
    ) -> tuple[int, int, str, str | None]:
        """Carry out what *node* asks of a store: the store after it, the answer, text, problem."""
        name = (node, store, t, is_lost)
        found = self._store_steps.get(name)
        if found is None:
            found = self._store_steps[name] = self._carried_out(node, store, t, is_lost=is_lost)
        return found

    def _carried_out(
        self, node: int, store: int, t: int, *, is_lost: bool
    ) -> tuple[int, int, str, str | None]:
        ask = self._nodes[node].step
        assert isinstance(ask, Ask)
        before = self._stores[store]
        self._t = t
        self._put(before)
        try:
            answer: Any = ask.of(self._inbox if ask.port == "inbox" else self._store)
        except Exception as error:  # noqa: BLE001 - a step that raises here is a defect, and told
            return store, 0, f"{ask.name}", f"{type(error).__name__} in {ask.name}: {error}"
        if isinstance(answer, list):
            answer = tuple(answer)
        after = self._taken()
        text = _told(ask, answer)
        problem = _of_the_store(before, after, ask, self.scenario)
        if is_lost:
            answer = Failed("committed")
        number = self._stores.number(after, after.key)
        return number, self._answers.number(answer), text, problem

    def root(self, program: str, t: int) -> int:
        """Return a process that begins *program* now."""
        name = (program, t)
        if name not in self._roots:
            self._roots[name] = self._add(Node(program, t, ()))
        return self._roots[name]

    def heard(self, node: int, answer: int, t: int) -> int:
        """Return the process once it has heard *answer*; 0 when it has ended."""
        name = (node, answer, t)
        if name not in self._children:
            parent = self._nodes[node]
            child = Node(parent.program, parent.began_at, (*parent.log, (answer, t)))
            live, parent.live = parent.live, None
            self._children[name] = self._add(child, live)
        return self._children[name]

    def answer(self, value: Any) -> int:
        """Return the number of an answer."""
        return self._answers.number(value)

    def _add(self, node: Node, live: Stepped[Any] | None = None) -> int:
        if live is None:
            live = self._begun(node)
            past = node.log[:-1]
            self._run(node, live, node.began_at, None)
            for answer, t in past:
                self._run(node, live, t, answer)
            if node.log:
                answer, t = node.log[-1]
                self._run(node, live, t, answer)
        else:
            answer, t = node.log[-1]
            self._run(node, live, t, answer)
        node.live = live
        self._nodes.append(node)
        return len(self._nodes) - 1

    def _run(self, node: Node, live: Stepped[Any], t: int, answer: int | None) -> None:
        self._t = t
        value = None if answer is None else self._answers[answer]
        try:
            if isinstance(value, Failed):
                node.step = live.throw(value.error)
            else:
                node.step = live.send(value)
        except StopIteration as end:
            node.step, node.ended_with = None, end.value
        except Exception as error:  # noqa: BLE001 - how a procedure ends, judged by its caller
            node.step, node.ended_with = None, error

    def _begun(self, node: Node) -> Stepped[Any]:
        if node.program not in self._processes:
            number = len(self._processes) + 1
            self._processes[node.program] = process(
                self.scenario.provider,
                self.scenario.settings,
                self._clock,
                lambda: UUID(int=number),
                webhooks=WebhookSettings(lease_s=3, first_retry_s=1, last_retry_s=2),
            )
        run = self._processes[node.program]
        kind, _, detail = node.program.partition(":")
        match kind:
            case "host" if self.scenario.is_enqueued:
                before = at(self.scenario.send_within_s)
                return stepped(run.procedures.enqueue(self.context, before))
            case "host":
                return stepped(run.procedures.execute(self.context))
            case "worker":
                return stepped(_checking(run))
            case "applying":
                return stepped(run.intake.apply_due(1))
            case _:
                return stepped(_hearing(run, detail, self._delivery(detail)))

    @property
    def context(self) -> PaymentContext:
        """What the host asks for."""
        return charge()

    def _delivery(self, event: str) -> tuple[Mapping[str, str], bytes]:
        """Return the signed delivery of an event, named as ``charge/status``."""
        number, status = event.split("/")
        data = item(int(number), self.context.provider_key, self.context.money.amount_minor, status)
        body = json.dumps({"id": event, "type": "charge.updated", "data": data}).encode()
        stamp, event_id = int(NOW.timestamp()), f"evt_{number}_{status}"
        signature = standard_webhooks.sign(SECRET, event_id, stamp, body)
        headers = {
            standard_webhooks.ID: event_id,
            standard_webhooks.TIMESTAMP: str(stamp),
            standard_webhooks.SIGNATURE: signature,
        }
        return headers, body


def _checking(run: Process) -> Procedure[None]:
    """What a worker does with one piece of work."""
    kernel = run.procedures.kernel
    started_s = kernel.clock.monotonic()
    due = Due(owner=OWNER, lease_s=kernel.settings.lease_s, limit=1)
    for acquired in (yield from run.procedures.acquire_due(due)):
        yield from run.procedures.check(acquired, started_s)


def _hearing(
    run: Process, event: str, delivery: tuple[Mapping[str, str], bytes]
) -> Procedure[None]:
    """What a host does with a delivery: take it, say so, apply it."""
    headers, body = delivery
    receipt = yield from run.intake.receive("stub", headers, body, "main")
    yield lambda: Ask("provider", "acknowledge", (event,))
    yield from run.intake.apply(receipt)


def item(number: int, key: str, amount_minor: int, status: str) -> dict[str, object]:
    """Return a charge as the provider shows it."""
    shown: dict[str, object] = {
        "object": "charge",
        "id": f"ch_{number}",
        "status": status,
        "reference": key,
        "amount_minor": amount_minor,
        "currency": "SAR",
    }
    return shown


@attrs.frozen
class Moment:
    """One process at one moment, and what can become of it."""

    world: World
    role: str
    number: int
    store: int
    ledger_number: int
    allowed_number: int
    t: int

    @property
    def actor(self) -> Actor:
        return self.world._actors[self.number]

    @property
    def ledger(self) -> Ledger:
        return self.world._ledgers[self.ledger_number]

    @property
    def allowed(self) -> Allowed:
        return self.world._alloweds[self.allowed_number]

    def steps(self) -> Iterator[Local]:
        """Yield everything that this process can do, or suffer, next."""
        actor = self.actor
        if not actor.node:
            yield from self._begins()
            return
        if actor.heard is not None:
            answer, since = actor.heard
            if self.t > since:
                yield self._go_on("hears the slow answer", actor.node, answer)
        elif actor.request is not None:
            yield from self._waits(actor, actor.request)
        else:
            yield from self._acts(actor.node, "")
        if self.allowed.crashes:
            yield self._local("dies", IDLE, allowed="crashes", stray=self._on_the_road())

    def _on_the_road(self) -> Request | None:
        request = self.actor.request
        return None if request is None or request.is_lost else request

    def _begins(self) -> Iterator[Local]:
        match self.role:
            case "host" if self.allowed.calls:
                number = self.world.scenario.allowed.calls - self.allowed.calls
                node = self.world.root(f"host:{number}", self.t)
                verb = "asks for the charge" if number == 0 else "asks again, with the same key"
                yield from self._acts(node, f"{verb}; ", "calls")
            case "worker":
                if self._is_work_due():
                    yield from self._acts(self.world.root("worker", self.t), "looks for work; ")
                if self._is_inbox_due():
                    yield from self._acts(self.world.root("applying", self.t), "opens the inbox; ")
            case "receiver" if self.allowed.deliveries:
                for number, one in enumerate(self.ledger.charges):
                    end = "declined" if one.is_declined else "succeeded"
                    for status in ("pending", end):
                        node = self.world.root(f"receiver:{number}/{status}", self.t)
                        text = f'is told "ch_{number} is {status}" by webhook; '
                        yield from self._acts(node, text, "deliveries")
            case _:
                pass

    def _is_work_due(self) -> bool:
        execution = self.world._stores[self.store].execution
        due = Due(owner=OWNER, lease_s=1, limit=1)
        return execution is not None and memory._is_due(execution, due, at(self.t))

    def _is_inbox_due(self) -> bool:
        kept = self.world._stores[self.store].inbox.values()
        return any(one.due_at is not None and one.due_at <= at(self.t) for one in kept)

    def _acts(self, node: int, text: str, uses: str = "") -> Iterator[Local]:
        step = self.world._nodes[node].step
        assert step is not None
        if isinstance(step, Sending):
            send = self._sends if step.request.moves_money else self._looks_up
            yield from send(node, step, text)
        elif step.port == "provider":
            event = step.args[0]
            known = self.ledger.acknowledged
            ledger = self.ledger._replace(acknowledged=tuple(sorted({*known, event})))
            after = self.world.heard(node, self.world.answer(None), self.t)
            problem = _lost_event(self.world._stores[self.store], event)
            said = f"{text}tells the provider that the event was taken"
            yield self._arrives_at(after, said, ledger=ledger, problem=problem)
        else:
            yield from self._stores(node, text, uses)

    def _stores(self, node: int, text: str, uses: str) -> Iterator[Local]:
        world, t = self.world, self.t
        store, answer, told, problem = world.carry_out(node, self.store, t)
        yield from self._answered(node, answer, f"{text}{told}", uses, store=store, problem=problem)
        if self.allowed.store and not uses:
            yield self._go_on(
                f"{text}loses the store's answer; it was committed: {told}",
                node,
                world.answer(Failed("committed")),
                store=store,
                allowed="store",
            )
            yield self._go_on(
                f"{text}loses the store: nothing was committed",
                node,
                world.answer(Failed("uncommitted")),
                allowed="store",
            )

    def _sends(self, node: int, step: Sending, text: str) -> Iterator[Local]:
        world = self.world
        assert step.send_by is not None
        world._t = self.t
        if step.send_by.has_passed():
            late = world.answer(Failed("deadline"))
            yield self._go_on(f"{text}is too late and sends nothing (rule R2)", node, late)
            return
        body = json.loads(step.request.body)
        request = Request(step.request.headers["Idempotency-Key"], body["amount_minor"], self.t)
        ledger = self.ledger._replace(left=self.ledger.left + 1)
        problem = self._forbidden(step.execution)
        yield self._local(
            f"{text}sends the charge, {_named(request.key)}",
            Actor(node, None, request),
            ledger=ledger,
            problem=problem,
        )
        if self.allowed.refused:
            refused = world.answer(Failed("refused"))
            yield self._go_on(f"{text}gets no connection", node, refused, allowed="refused")

    def _forbidden(self, execution: PaymentExecution) -> str | None:
        """Return which rule forbids that a request of *execution* leaves now."""
        if not self.world.scenario.checks_rules:
            return None
        timing, t, sent = self.world.timing, at(self.t), self.ledger.left
        stored = self.world._stores[self.store].execution
        if stored is None or stored.send_count <= sent:
            return "I9: a request left before its send mark was committed"
        first, last = execution.first_sent_at, execution.last_sent_at
        assert first is not None
        assert last is not None
        if (t - last).total_seconds() > timing.send_deadline_s:
            return "I10: a request left after its send deadline (R2)"
        if sent == self.ledger.turned_away:
            return None
        if not self.world.scenario.provider.is_idempotent:
            return "I10: a second request left for a provider that is not idempotent (R3)"
        window = timing.key_window_s
        since = (t - first).total_seconds()
        if window is not None and since + timing.latest_arrival_s >= window:
            return "I10: a request left that may arrive after the key window (R3)"
        return None

    def _waits(self, actor: Actor, request: Request) -> Iterator[Local]:
        timing, world = self.world.timing, self.world
        if not request.is_lost and self.t <= request.left_at + timing.latest_arrival_s:
            yield from self._arrives(actor, request)
        is_patient = self.t < request.left_at + timing.answer_timeout_s
        if request.is_lost or not is_patient:
            silence = world.answer(Failed("timeout"))
            text = "waits for an answer in vain"
            yield self._go_on(text, actor.node, silence, stray=self._on_the_road())

    def _arrives(self, actor: Actor, request: Request) -> Iterator[Local]:
        world, allowed, node = self.world, self.allowed, actor.node
        lost = actor._replace(request=request._replace(is_lost=True))
        ledger, text = world._arrived(self.ledger, request, self.t)
        said = f"'s request arrives: {text}"
        answer = world.answer(self._shown(ledger, request.key))
        yield from self._answered(node, answer, f"{said}; it hears so", ledger=ledger)
        if allowed.lost:
            yield self._local("'s request is lost", lost, allowed="lost")
            gone = f"{said}; the answer is lost"
            yield self._local(gone, lost, ledger=ledger, allowed="lost")
        if allowed.errors:
            broken = world.answer(HttpResponse(status=500, body=b"{}"))
            error = f"{said}; it hears 500"
            yield self._go_on(error, node, broken, ledger=ledger, allowed="errors")
        if allowed.refused:
            busy = world.answer(_refusal(503, "unavailable"))
            away = self.ledger._replace(turned_away=self.ledger.turned_away + 1)
            turned = "'s request is turned away undone (503)"
            yield self._go_on(turned, node, busy, ledger=away, allowed="refused")
        if allowed.declined and world.remembered(self.ledger, request.key, self.t) is None:
            ledger, text = world._arrived(self.ledger, request, self.t, is_declined=True)
            answer = world.answer(self._shown(ledger, request.key))
            said = f"'s request arrives: {text}; it hears so"
            yield self._go_on(said, node, answer, ledger=ledger, allowed="declined")

    def _shown(self, ledger: Ledger, key: str) -> HttpResponse:
        number = self.world.remembered(ledger, key, self.t)
        number = len(ledger.charges) - 1 if number is None else number
        one = ledger.charges[number]
        status = "declined" if one.is_declined else "succeeded"
        body = json.dumps(item(number, key, one.amount_minor, status)).encode()
        return HttpResponse(status=402 if one.is_declined else 201, body=body)

    def _looks_up(self, node: int, step: Sending, text: str) -> Iterator[Local]:
        world = self.world
        key = step.request.url.rpartition("reference=")[2]
        found = [pair for pair in enumerate(self.ledger.charges) if pair[1].key == key]
        sure = [one for one in found if self.t > one[1].arrived_at + world.timing.read_lag_s]
        for seen in [found] if sure == found else [found, sure]:
            names = " and ".join(f"ch_{number}" for number, _ in seen) or "nothing"
            lag = " yet" if seen != found else ""
            shown = [
                item(n, key, one.amount_minor, "declined" if one.is_declined else "succeeded")
                for n, one in seen
            ]
            body = json.dumps({"data": shown}).encode()
            answer = world.answer(HttpResponse(status=200, body=body))
            said = f"{text}looks up, {_named(key)}: the provider shows {names}{lag}"
            yield from self._answered(node, answer, said)
        if self.allowed.mute:
            silence = world.answer(Failed("timeout"))
            said = f"{text}looks up and gets no answer"
            yield self._go_on(said, node, silence, allowed="mute")

    def _answered(
        self,
        node: int,
        answer: int,
        text: str,
        uses: str = "",
        *,
        store: int | None = None,
        ledger: Ledger | None = None,
        problem: str | None = None,
    ) -> Iterator[Local]:
        """Yield that the answer is heard at once, and that it takes a second or more."""
        yield self._go_on(
            text, node, answer, store=store, ledger=ledger, allowed=uses, problem=problem
        )
        if self.allowed.slow and problem is None:
            slow = Actor(node, (answer, self.t))
            late = f"{text} (the answer is slow)"
            yield self._local(late, slow, store=store, ledger=ledger, allowed=f"slow {uses}")

    def _go_on(self, text: str, node: int, answer: int, **more: Any) -> Local:
        return self._arrives_at(self.world.heard(node, answer, self.t), text, **more)

    def _arrives_at(self, node: int, text: str, **more: Any) -> Local:
        ended = self.world._nodes[node]
        if ended.step is not None:
            return self._local(text, Actor(node), **more)
        result = ended.ended_with
        if isinstance(result, Exception):
            text = f"{text}; ends with {type(result).__name__}"
            if not isinstance(result, _EXPECTED):
                more["problem"] = f"a procedure broke: {type(result).__name__}: {result}"
        elif isinstance(result, PaymentExecution):
            text = f"{text}; is told {_state_of(result)}"
        return self._local(text, IDLE, **more)

    def _local(
        self,
        text: str,
        actor: Actor,
        *,
        store: int | None = None,
        ledger: Ledger | None = None,
        allowed: str = "",
        stray: Request | None = None,
        problem: str | None = None,
    ) -> Local:
        world, left = self.world, self.allowed
        for name in allowed.split():
            left = left.less(name)
        return Local(
            text,
            world._actors.number(actor),
            self.store if store is None else store,
            self.ledger_number if ledger is None else world._ledgers.number(ledger),
            world._alloweds.number(left),
            stray,
            problem,
        )


# ---------------------------------------------------------------------- what must always hold


def _judged(stored: Stored, ledger: Ledger) -> str | None:
    """Return what is wrong about the money, if anything is."""
    taken = ledger.taken
    if len(taken) > 1:
        return f"I1: one key, {len(taken)} charges"
    execution = stored.execution
    if len(stored.executions) > 1:
        return f"I2: one key, {len(stored.executions)} executions"
    if execution is None:
        return "I9: money moved and nothing is stored of it" if taken else None
    if execution.status is ExecutionStatus.FAILED and taken:
        return f"I11: the execution is failed ({execution.failure}), and the money has moved"
    if execution.status is ExecutionStatus.COMPLETED:
        if not taken:
            return "I11: the execution is completed, and no money has moved"
        if execution.settled_minor != taken[0].amount_minor:
            return "I20: another amount is booked than was charged"
    return None


def _of_the_store(before: Stored, after: Stored, ask: Ask, scenario: Scenario) -> str | None:
    """Return what is wrong about a step of the store, if anything is."""
    for name, one in after.executions.items():
        was = before.executions.get(name)
        if was is not None and not was.is_open and was != one:
            return f"I5: a terminal state was left: {_state_of(was)} became {_state_of(one)}"
        if one.is_open is (one.next_check_at is None):
            return "I6: an open execution that nobody will look at"
        problem = _of_the_journal(one, was, after, before)
        if problem is not None:
            return problem
    return _of_the_fence(before, after, ask) if scenario.checks_rules else None


def _of_the_journal(
    one: PaymentExecution, was: PaymentExecution | None, after: Stored, before: Stored
) -> str | None:
    name = (one.tenant_id, one.payment_id)
    events = after.events[name]
    new = events[len(before.events.get(name, ())) :]
    versions = [event.version for event in new if event.version is not None]
    steps = one.version - (was.version if was is not None else 0)
    if len(versions) != steps:
        return f"I3: {steps} changes and {len(versions)} events"
    if [event.seq for event in events] != list(range(1, after.payments[name].seq + 1)):
        return "I3: the events of the payment have a gap"
    if versions and (versions[-1], new[-1].to_status) != (one.version, one.status.value):
        return "I3: the last event does not tell of the state"
    return None


def _of_the_fence(before: Stored, after: Stored, ask: Ask) -> str | None:
    if ask.name not in {"mark_sent", "reschedule", "put_back", "record"}:
        return None
    first = ask.args[0]
    held: PaymentExecution = first if isinstance(first, PaymentExecution) else first.before
    name = (held.tenant_id, held.execution_id)
    was, now = before.executions.get(name), after.executions[name]
    if was is None or was.lease.token == held.lease.token or not now.is_open:
        return None
    same = (was.lease, was.next_check_at, was.send_count) == (
        now.lease,
        now.next_check_at,
        now.send_count,
    )
    return None if same else f"I14: an old token moved lease or schedule ({ask.name})"


def _lost_event(stored: Stored, event: str) -> str | None:
    name = "evt_" + event.replace("/", "_")
    if any(one.item.event_id == name for one in stored.inbox.values()):
        return None
    return "I13: the provider was told that an event was taken, and it is not stored"


# ---------------------------------------------------------------------- how it is told


def _refusal(status: int, code: str) -> HttpResponse:
    return HttpResponse(status=status, body=json.dumps({"error": {"code": code}}).encode())


def _named(key: str) -> str:
    return f"key {key[:4]}"


def _state_of(execution: PaymentExecution) -> str:
    reason = execution.failure or execution.pending_reason or execution.provider_ref
    return f"{execution.status.value}" + (f" ({reason})" if reason else "")


def _told(ask: Ask, answer: Any) -> str:
    tell = _TELLING.get(ask.name)
    return ask.name if tell is None else tell(ask, answer)


def _told_of_claim(ask: Ask, answer: Any) -> str:
    sent = " and the send mark" if ask.args[0].is_sent else ""
    how = f"claims the key{sent}" if answer.verdict == "claimed" else "the key is known"
    return f"{how} ({answer.verdict})"


def _told_of_mark(_: Ask, answer: Any) -> str:
    if answer is None:
        return "may not mark a send: somebody else has the lease"
    return f"commits send mark {answer.send_count}"


def _told_of_record(_: Ask, answer: Any) -> str:
    return (
        "cannot record: somebody knew first" if answer is None else f"records {_state_of(answer)}"
    )


def _told_of_reading(_: Ask, answer: Any) -> str:
    return "reads nothing" if answer is None else f"reads {_state_of(answer)}"


def _told_of_due(_: Ask, answer: Any) -> str:
    return _told_of_lease(answer[0].execution.lease) if answer else "nothing is due"


def _either(yes: str, no: str) -> Callable[[Ask, Any], str]:
    return lambda _, answer: yes if answer else no


_TELLING: Final[Mapping[str, Callable[[Ask, Any], str]]] = {
    "claim": _told_of_claim,
    "acquire_due": _told_of_due,
    "mark_sent": _told_of_mark,
    "record": _told_of_record,
    "reschedule": _either("gives the lease back, to look again later", "lost the lease"),
    "put_back": _either("puts it back, to be sent again later", "lost the lease"),
    "get": _told_of_reading,
    "find": _told_of_reading,
    "note": _either("notes a discrepancy", "knows the discrepancy"),
    "find_named": _either("finds the execution that the event names", "finds nothing"),
    "receive": lambda _, answer: f"stores the event ({answer})",
    "settle": lambda ask, _: f"notes the event as {ask.args[1].state}",
}


def _told_of_lease(lease: Lease) -> str:
    return f"takes the lease (token {lease.token})"


# ---------------------------------------------------------------------- the search


def search(scenario: Scenario, *, most_states: int = 5_000_000, most_s: float = 600.0) -> Found:
    """Search *scenario*, breadth first, so that a counter-example is a shortest one."""
    was_enabled = gc.isenabled()
    gc.disable()  # nothing is given back before the end, and looking for it takes half of the time
    try:
        return _search(scenario, most_states, most_s)
    finally:
        if was_enabled:
            gc.enable()


def _search(scenario: Scenario, most_states: int, most_s: float) -> Found:
    began = time.perf_counter()
    world = World(scenario)
    first = world.start()
    seen = {world.canonical(first)}
    parents, moves = [0], [(-1, "")]
    waiting = deque([(0, first)])
    steps = 0
    is_exhausted = True
    while waiting:
        number, state = waiting.popleft()
        if len(seen) >= most_states or time.perf_counter() - began > most_s:
            is_exhausted = False
            break
        for child in world.children(state):
            steps += 1
            if child.problem is not None:
                path = _path(parents, moves, number)
                story = _story(world, [*path, (child.who, child.text)], child)
                return _found(scenario, seen, steps, began, is_exhausted=False, story=story)
            name = world.canonical(child.state)
            if name not in seen:
                seen.add(name)
                parents.append(number)
                moves.append((child.who, child.text))
                waiting.append((len(parents) - 1, child.state))
    return _found(scenario, seen, steps, began, is_exhausted=is_exhausted, story=None)


def _found(
    scenario: Scenario,
    seen: set[State],
    steps: int,
    began: float,
    *,
    is_exhausted: bool,
    story: Story | None,
) -> Found:
    return Found(
        scenario=scenario.name,
        states=len(seen),
        steps=steps,
        took_s=time.perf_counter() - began,
        is_exhausted=is_exhausted,
        story=story,
    )


def _path(
    parents: Sequence[int], moves: Sequence[tuple[int, str]], number: int
) -> list[tuple[int, str]]:
    path: list[tuple[int, str]] = []
    while number:
        path.append(moves[number])
        number = parents[number]
    return path[::-1]


def _story(world: World, moves: Sequence[tuple[int, str]], child: Child) -> Story:
    assert child.problem is not None
    names = _names(world.roles)
    t, told = 0, list[str]()
    for who, text in moves:
        if not text:
            t += 1
            continue
        told.append(
            f"t={t:<3} {text}." if who < 0 else f"t={t:<3} {names[who]}{_after_a_name(text)}."
        )
    ledger = world._ledgers[child.state.ledger]
    lines = [
        f"ch_{number} of {one.amount_minor / 100:.2f} SAR at t={one.arrived_at}, {_named(one.key)}"
        + (", declined" if one.is_declined else "")
        for number, one in enumerate(ledger.charges)
    ]
    execution = world._stores[child.state.store].execution
    return Story(
        problem=child.problem,
        steps=tuple(told),
        stored="nothing" if execution is None else _state_of(execution),
        ledger=tuple(lines or ["no charge"]),
    )


def _after_a_name(text: str) -> str:
    return text if text.startswith("'") else f" {text}"


def _names(roles: Sequence[str]) -> Sequence[str]:
    """Return what the processes are called: Host, Worker A, Worker B."""
    names = list[str]()
    for role in roles:
        number = sum(one == role for one in roles[: len(names)])
        alone = roles.count(role) == 1
        names.append(role.title() if alone else f"{role.title()} {'ABCDEF'[number]}")
    return names

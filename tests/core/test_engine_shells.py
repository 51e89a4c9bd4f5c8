"""Both engines hand on all that they are given, and give back all that they get."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import attrs
import pytest

from railcore import engine as module
from railcore.engine import AsyncPaymentEngine, PaymentEngine
from railcore.errors import MisconfiguredError
from railcore.flow import answered
from railcore.kernel import EngineSettings
from railcore.registry import PaymentRailRegistry
from tests.core.made import ID, NOW, FakeClock, context

ENGINES = [PaymentEngine, AsyncPaymentEngine]
TENANT: Any = "acme"
HERE: Any = "a connection"


def done(value: Any) -> Any:
    """*value*, awaited where it has to be."""

    async def wait() -> Any:
        return await value

    return asyncio.run(wait()) if inspect.isawaitable(value) else value


@attrs.define
class Recorder:
    """Takes down what is asked of it, and answers with that."""

    in_flows: bool = True
    is_async: bool = False
    asked: list[tuple[Any, ...]] = attrs.field(factory=list)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def ask(*args: Any) -> Any:
            self.asked.append((name, *args))
            answer = (name, *args)
            if self.in_flows:
                return answered(answer)
            return self._later(answer) if self.is_async else answer

        return ask

    async def _later(self, answer: Any) -> Any:
        return answer


@attrs.define
class Store:
    """A store that cannot join a host's transaction, and is asked nothing."""


@attrs.define
class JoinableStore:
    """A store that can."""

    joined: Any = None

    def within(self, connection: Any, /) -> "JoinableStore":
        return JoinableStore(connection)


def made(kind: Any, store: Any = None, **more: Any) -> Any:
    """An engine of a colour without any rail."""
    return kind(rails=PaymentRailRegistry(), routes=Recorder(), store=store or Store(), **more)


CALLS = [
    ("acquire_due", ("due",)),
    ("check", ("acquired", 7.0)),
    ("give_back", ("acquired",)),
    ("refresh", (TENANT, ID)),
    ("execute", (context(),)),
    ("review", (TENANT, 7)),
    ("review", (None, 8)),
    ("resolve", (TENANT, ID, "remedy", "decision")),
    ("note_orphan", ("orphan",)),
    ("note_missing", (TENANT, ID, "statement-1")),
    ("explain", (TENANT, ID)),
    ("recheck", (TENANT, ID)),
    ("get", (TENANT, ID)),
]


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(("name", "args"), CALLS)
def test_a_procedure_gets_all_that_the_engine_got(
    kind: Any, name: str, args: Sequence[Any]
) -> None:
    engine = made(kind)
    engine._procedures = Recorder()

    assert done(getattr(engine, name)(*args)) == (name, *args)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_hundred_is_what_is_asked_for_by_default(kind: Any) -> None:
    engine = made(kind)
    store = Recorder(in_flows=False, is_async=kind is AsyncPaymentEngine)
    engine._procedures, engine._store = Recorder(), store

    assert done(engine.review()) == ("review", None, 100)
    assert done(engine.open_executions()) == ("open_executions", 100)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("find", (TENANT, "key-1")),
        ("executions", (TENANT, "inv-1")),
        ("open_executions", (7,)),
        ("payment", (TENANT, "inv-1")),
        ("events", (TENANT, "inv-1")),
    ],
)
def test_the_store_gets_all_that_the_engine_got(kind: Any, name: str, args: Sequence[Any]) -> None:
    engine = made(kind)
    engine._store = Recorder(in_flows=False, is_async=kind is AsyncPaymentEngine)

    assert done(getattr(engine, name)(*args)) == (name, *args)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(
    ("name", "args", "asked"),
    [
        ("handle_webhook", ("stub", {}, b"x", "main"), ("handle", "stub", {}, b"x", "main")),
        ("handle_webhook", ("stub", {}, b"x"), ("handle", "stub", {}, b"x", None)),
        ("receive_webhook", ("stub", {}, b"x", "main"), ("receive", "stub", {}, b"x", "main")),
        ("apply_webhook", ("receipt",), ("apply", "receipt")),
        ("apply_inbox", (7,), ("apply_due", 7)),
        ("apply_inbox", (), ("apply_due", 100)),
    ],
)
def test_the_intake_gets_all_that_the_engine_got(
    kind: Any,
    name: str,
    args: Sequence[Any],
    asked: tuple[Any, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    webhooks: Any = object()
    engine = made(kind, webhooks=webhooks)
    given: list[Any] = []

    def intake_of(*parts: Any) -> Recorder:
        given.extend(parts)
        return Recorder()

    monkeypatch.setattr(module, "intake_of", intake_of)

    assert done(getattr(engine, name)(*args)) == asked
    assert given == [engine._procedures, webhooks]


@pytest.mark.parametrize("kind", ENGINES)
def test_what_an_engine_is_made_of_reaches_its_kernel(kind: Any) -> None:
    settings, clock, observer = EngineSettings(owner="me"), FakeClock(), Recorder()

    def new_id() -> Any:
        return ID

    def chance() -> float:
        return 0.5

    kernel = made(
        kind, settings=settings, clock=clock, observer=observer, new_id=new_id, chance=chance
    )._procedures.kernel

    assert (kernel.settings, kernel.clock, kernel.observer) == (settings, clock, observer)
    assert (kernel.new_id, kernel.chance) == (new_id, chance)


@pytest.mark.parametrize("kind", ENGINES)
def test_an_engine_spreads_waits_and_numbers_executions_by_itself(kind: Any) -> None:
    kernel = made(kind, clock=FakeClock())._procedures.kernel
    assert kernel.new_id().version == 7
    assert 0 <= kernel.chance() < 1


@pytest.mark.parametrize("kind", ENGINES)
def test_many_are_claimed_a_thousand_at_a_time_and_answered_in_order(kind: Any) -> None:
    engine = made(kind, clock=FakeClock())
    procedures = Batches(engine._procedures.kernel)
    engine._procedures = procedures
    wanted = [context(idempotency_key=f"key-{count}") for count in range(1001)]
    before = NOW + timedelta(days=3)

    answers = done(engine.enqueue_many(wanted, send_before=before))

    assert answers == [one.idempotency_key for one in wanted]
    assert procedures.asked == [(1000, before), (1, before)]


@attrs.define
class Batches:
    """Claims nothing, and answers with the keys."""

    kernel: Any
    asked: list[tuple[int, Any]] = attrs.field(factory=list)

    def enqueue_many(self, contexts: Sequence[Any], before: Any) -> Any:
        self.asked.append((len(contexts), before))
        return answered([one.idempotency_key for one in contexts])


@pytest.mark.parametrize("kind", ENGINES)
def test_a_store_that_cannot_join_says_so(kind: Any) -> None:
    engine = made(kind)
    for ask in (one, many):
        with pytest.raises(MisconfiguredError) as error:
            done(ask(engine))
        assert str(error.value) == (
            "connection: Store cannot write in a host's transaction."
            " Leave connection out, or use a store on the host's database"
        )


def one(engine: Any) -> Any:
    return engine.enqueue(context(), connection=HERE)


def many(engine: Any) -> Any:
    return engine.enqueue_many([context()], connection=HERE)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_store_that_can_join_does(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = made(kind, JoinableStore())
    seen: list[Any] = []

    def enqueue(self: Any, request: Any, before: Any) -> Any:
        seen.append((self.store.joined, self.kernel, request, before))
        return answered("claimed")

    monkeypatch.setattr(type(engine._procedures), "enqueue", enqueue)
    for connection in (HERE, None):
        assert done(engine.enqueue(context(), connection=connection, send_before=NOW)) == "claimed"

    kernel = engine._procedures.kernel
    assert seen == [(HERE, kernel, context(), NOW), (None, kernel, context(), NOW)]

"""
The matrix: which cases there are, run on several stages at a time, and what became of them.

The messages of an operation are not written down anywhere: a rehearsal, which nothing befalls,
tells them. Then each of them is hit in each mode, against each behaviour of the provider.
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager

import attrs
import sqlalchemy

from railcore_sqlalchemy import schema
from tests.conftest import fresh_database, name_in
from tests.faults.wire.judge import Finding
from tests.faults.wire.operations import OPERATIONS, Case
from tests.faults.wire.providers import Behaviour, Provider
from tests.faults.wire.proxy import Fault, Mode, Upstream
from tests.faults.wire.stage import Kind, Stage, staged

SLOTS = 64
IN_PAIRS = ("charge", "refund")
IN_BOTH_COLOURS = frozenset({"charge"})

Faults = tuple[Fault | None, Fault | None]


@attrs.define
class Tally:
    """
    What became of the cases of one kind.

    Attributes:
        messages: What a rehearsal said and heard.
        enumerated: How many cases there are.
        run, struck: How many were run, and in how many the message came.
        findings: What was wrong, with the case it was wrong in.
        settled_s: The longest recovery of a batch.
    """

    kind: Kind
    messages: Sequence[str]
    enumerated: int = 0
    run: int = 0
    struck: int = 0
    findings: list[tuple[Case, Finding]] = attrs.field(factory=list)
    told: Counter[str] = attrs.field(factory=Counter)
    settled_s: float = 0.0


def kinds(provider: Provider, names: Sequence[str] = ()) -> list[Kind]:
    """Return every kind of case, or those of some operations."""
    found = []
    for name in names or OPERATIONS:
        act = OPERATIONS[name]
        colours = ("async", "sync") if name in IN_BOTH_COLOURS else ("async",)
        for behaviour, colour in itertools.product(act.behaviours, colours):
            asked = provider.behaviours.get(behaviour)
            if asked is None and behaviour.startswith("plain"):
                continue  # it knows no keys anyway
            asked = asked or provider.behaviours["answers"]
            found.append(Kind(act=act, behaviour=_named(asked, behaviour), colour=colour))
    return found


def _named(behaviour: Behaviour, name: str) -> Behaviour:
    return attrs.evolve(behaviour, name=name)


def single_faults(messages: Sequence[str]) -> list[Faults]:
    """Return every single fault of an operation with these messages."""
    places = range(1, len(messages) + 1)
    return [(Fault(mode, nth), None) for mode, nth in itertools.product(Mode, places)]


async def play(stage: Stage, kind: Kind, sample: int = 0, seed: int = 0) -> Tally:
    """Run every single fault of *kind*, or *sample* of them."""
    messages = await stage.rehearse(kind)
    faults = single_faults(messages)
    tally = Tally(kind, messages, enumerated=len(faults))
    if sample:
        chance = random.Random(f"{seed}/{kind}")
        faults = chance.sample(faults, min(sample, len(faults)))
    await _play_all(stage, kind, faults, tally)
    return tally


async def play_pairs(stage: Stage, kind: Kind, sample: int = 0, seed: int = 0) -> Tally:
    """
    Run pairs of *kind*: the second fault in the recovery from the first.

    Every first fault with every message of the recovery from it; the mode of the second goes round.
    """
    first = [one for one, _ in single_faults(await stage.rehearse(kind))]
    chance = random.Random(f"{seed}/{kind}/pairs")
    if sample:
        first = chance.sample(first, min(sample, len(first)))
    pairs: list[Faults] = []
    modes = itertools.cycle(Mode)
    tally = Tally(kind, [])
    for some in _batches([(one, Fault(Mode.RESET)) for one in first], SLOTS // 2):
        for case in (await stage.run(kind, some)).cases:
            tally.messages = max(tally.messages, case.seen_again, key=len)
            places = range(1, len(case.seen_again) + 1)
            pairs += [(case.fault, Fault(next(modes), nth)) for nth in places]
    tally.enumerated = len(pairs)
    if sample:
        pairs = chance.sample(pairs, min(sample, len(pairs)))
    await _play_all(stage, kind, pairs, tally)
    return tally


async def _play_all(stage: Stage, kind: Kind, faults: Sequence[Faults], tally: Tally) -> None:
    is_pair = bool(faults) and faults[0][1] is not None
    left = list(faults)
    for attempt in range(3):  # on a busy machine a message may be missed: then once more
        missed: list[Faults] = []
        for some in _batches(left, SLOTS // 2 if is_pair else SLOTS):
            batch = await stage.run(kind, some)
            by_tenant = {case.tenant: case for case in batch.cases}
            tally.findings += [(by_tenant[one.tenant], one) for one in batch.findings]
            tally.settled_s = max(tally.settled_s, batch.settled_s)
            for case in batch.cases:
                hit = case.struck_again if is_pair else case.struck
                tally.told[case.outcome] += 1
                tally.struck += hit is not None
                if hit is None:
                    missed.append((case.fault, case.again))
        tally.run += len(left) if not attempt else 0
        left = missed
        if not left:
            return


def _batches(all_of: Sequence[Faults], size: int) -> Iterator[Sequence[Faults]]:
    for start in range(0, len(all_of), size):
        yield all_of[start : start + size]


@contextmanager
def databases(server_url: str, count: int) -> Iterator[Sequence[str]]:
    """Create so many databases with the schema; drop them."""
    with ExitStack() as stack:
        template = stack.enter_context(fresh_database(server_url, template="template0"))
        schema.install(template)
        copies = (fresh_database(server_url, template=name_in(template)) for _ in range(count))
        yield [stack.enter_context(one) for one in copies]


def upstream_of(url: str) -> Upstream:
    """Return where the server listens."""
    found = sqlalchemy.make_url(url)
    folder = found.query.get("host")
    port = int(str(found.query.get("port", found.port or 5432)))
    return Upstream(str(folder or found.host or "127.0.0.1"), port)


async def run(
    urls: Sequence[str],
    provider: Provider,
    wanted: Sequence[Kind],
    *,
    sample: int = 0,
    seed: int = 0,
    pairs: bool = False,
    part: str = "s",
) -> list[Tally]:
    """Run the matrix of *wanted*, a stage on each of *urls*."""
    waiting = list(reversed(wanted))
    tallies: list[Tally] = []

    async def work(number: int, url: str) -> None:
        async with AsyncExitStack() as stack:
            name = f"{part}{number}"
            opened = staged(url, name, provider, SLOTS, upstream_of(url))
            stage = await stack.enter_async_context(opened)
            while waiting:
                kind = waiting.pop()
                one = await (play_pairs if pairs else play)(stage, kind, sample, seed)
                tallies.append(one)
                print(line(one), flush=True)  # noqa: T201 - a long run says how far it is

    async with asyncio.TaskGroup() as group:
        for number, url in enumerate(urls):
            group.create_task(work(number, url))
    return tallies


def line(tally: Tally) -> str:
    """Return one row of the table."""
    kind = tally.kind
    name = f"{kind.act.name} ({kind.colour})"
    said = "; ".join(
        f"{one.kind} [{case.fault} at {case.struck}, then {case.again} at {case.struck_again}]:"
        f" {one.said}"
        for case, one in tally.findings[:5]
    )
    return (
        f"{name:24} {kind.behaviour.name:24} {len(tally.messages):4} messages"
        f" {tally.enumerated:6} cases {tally.run:6} run {tally.struck:6} struck"
        f" {len(tally.findings):4} findings, settled in {tally.settled_s:.1f} s {said}"
    )


def summary(tallies: Sequence[Tally], took_s: float, seed: int) -> str:
    """Return the totals."""
    found = Counter(one.kind for tally in tallies for _, one in tally.findings)
    cases = sum(tally.enumerated for tally in tallies)
    ran = sum(tally.run for tally in tallies)
    struck = sum(tally.struck for tally in tallies)
    wrong = ("double charge", "false failure", "gap", "open", "ledger", "caller")
    counts = ", ".join(f"{found[one]} x {one}" for one in wrong)
    return (
        f"{len(tallies)} kinds x messages x {len(Mode)} modes = {cases} cases; {ran} run,"
        f" {struck} struck; {counts}; {took_s:.0f} s; seed {seed}; {time.strftime('%Y-%m-%d')}"
    )

"""Many connections at once: limits hold, keys are claimed once, the journal replays."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import psycopg
import pytest

from railcore_sqlalchemy.statements import VERDICT_OF_CONSTRAINT, statement
from tests.sqlalchemy.bystander import another, await_who_waits
from tests.sqlalchemy.desk import Desk, Row, claim_row, late_row, record_row

pytestmark = pytest.mark.usefixtures("own_sessions")

SUMS = (
    "charging",
    "authorized",
    "capturing",
    "captured",
    "voiding",
    "voided",
    "refunding",
    "refunded",
)


def race(url: str, works: Sequence[Callable[[Desk], object]]) -> list[object]:
    """Run all *works* at the same time, each with a desk of its own."""
    start = threading.Barrier(len(works))

    def one(work: Callable[[Desk], object]) -> object:
        desk = Desk(url)
        start.wait()
        try:
            return work(desk)
        finally:
            desk.close()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(one, works))


def verdict(desk: Desk, row: Row, *, many: bool) -> str:
    """Claim, and read a constraint's refusal as the verdict that it stands for."""
    try:
        return desk.claim_many([row])[0] if many else desk.claim(row)
    except psycopg.IntegrityError as error:
        return VERDICT_OF_CONSTRAINT[str(error.diag.constraint_name)]


@pytest.mark.parametrize("many", [False, True], ids=["single", "many"])
def test_one_of_four_racing_refunds_wins(database_url: str, many: bool) -> None:
    desk = Desk(database_url)
    for _ in range(15):
        row = desk.done()

        def refund(own: Desk, payment_id: str = row["payment_id"]) -> str:
            given = claim_row("refund", payment_id=payment_id, amount_minor=60)
            return verdict(own, given, many=many)

        verdicts = Counter(race(database_url, [refund] * 4))
        assert verdicts["claimed"] == 1
        assert set(verdicts) <= {"claimed", "limit", "busy"}
        assert desk.head(row)["refunding"] == 60
    desk.close()


@pytest.mark.parametrize("many", [False, True], ids=["single", "many"])
def test_one_of_four_racing_first_charges_wins(database_url: str, many: bool) -> None:
    desk = Desk(database_url)
    for _ in range(15):
        payment_id = f"inv-{uuid4()}"

        def charge(own: Desk, payment_id: str = payment_id) -> str:
            return verdict(own, claim_row(payment_id=payment_id), many=many)

        verdicts = Counter(race(database_url, [charge] * 4))
        assert verdicts["claimed"] == 1
        assert set(verdicts) <= {"claimed", "live", "busy", "again"}
        assert desk.head({"tenant_id": "acme", "payment_id": payment_id})["charging"] == 100
    desk.close()


@pytest.mark.parametrize("many", [False, True], ids=["single", "many"])
def test_one_key_is_claimed_once(database_url: str, many: bool) -> None:
    desk = Desk(database_url)
    for _ in range(15):
        row = claim_row()

        def charge(own: Desk, row: Row = row) -> str:
            return verdict(own, {**row, "execution_id": uuid4()}, many=many)

        assert Counter(race(database_url, [charge] * 8))["claimed"] == 1
        assert len(desk.run("execution_by_key", row)) == 1
        assert len(desk.events(row)) == 1
    desk.close()


def behind(url: str, first: Row, second: Row) -> str:
    """Claim *first* in a transaction, then *second*, which waits for it; commit *first*."""
    desk = Desk(url)
    with ThreadPoolExecutor(1) as pool, another(url, "select 1") as open_one:
        ready = statement(f"claim{'_followup' if first['operation'] == 'refund' else ''}")
        wanted = {name: first[name] for name in ready.names}
        row = open_one.execute(ready.named.encode(), wanted).fetchone()
        assert row
        assert row[0] == "claimed"
        begun = pool.submit(verdict, desk, second, many=False)
        await_who_waits(url)
        open_one.commit()
        answer = begun.result()
    desk.close()
    return answer


def test_of_two_first_charges_at_once_one_sets_the_currency(database_url: str) -> None:
    first = claim_row(due_minor=200)
    other = claim_row(payment_id=first["payment_id"], currency="USD", due_minor=200)

    assert behind(database_url, first, other) == "again"

    desk = Desk(database_url)
    assert desk.claim(other) == "currency"
    assert desk.head(first)["charging"] == 100
    desk.close()


@pytest.mark.parametrize("operation", ["charge", "refund"])
def test_who_waited_for_a_payment_decides_on_what_it_has_become(
    database_url: str, operation: str
) -> None:
    desk = Desk(database_url)
    row = desk.done(due_minor=200)
    asked = {"payment_id": row["payment_id"], "due_minor": 200, "head_seq": 2}
    rows = [claim_row(operation, **asked, amount_minor=minor) for minor in (30, 40)]

    assert behind(database_url, *rows) == "moved"

    assert desk.head(row)["seq"] == 3
    desk.close()


def named(name: str, row: Row) -> tuple[bytes, Row]:
    ready = statement(name)
    return ready.named.encode(), {it: row[it] for it in ready.names}


@pytest.mark.parametrize("many", [False, True], ids=["single", "many"])
@pytest.mark.parametrize("operation", ["charge", "authorize"])
def test_news_that_a_claim_waited_for_holds_it_back(
    database_url: str, operation: str, many: bool
) -> None:
    desk, own = Desk(database_url), Desk(database_url)
    failed = desk.done(operation, "failed")
    again = claim_row(operation, payment_id=failed["payment_id"])
    with ThreadPoolExecutor(1) as pool, another(database_url, "select 1") as telling:
        telling.execute(*named("discrepancy", late_row(failed)))
        if many:
            assert verdict(own, again, many=True) == "busy"  # it waits for nobody
        else:
            begun = pool.submit(verdict, own, again, many=False)
            await_who_waits(database_url)
        telling.commit()
        assert (verdict(own, again, many=True) if many else begun.result()) == "in_doubt"
    assert desk.head(failed)["charging"] == 0
    assert not desk.run("execution_by_key", again)
    own.close()
    desk.close()


@pytest.mark.parametrize("operation", ["charge", "authorize"])
def test_a_claim_that_news_waited_for_stands_and_the_news_is_kept(
    database_url: str, operation: str
) -> None:
    desk, own = Desk(database_url), Desk(database_url)
    failed = desk.done(operation, "failed")
    again = claim_row(operation, payment_id=failed["payment_id"])
    with ThreadPoolExecutor(1) as pool, another(database_url, "select 1") as claiming:
        claiming.execute(*named("claim", again))
        begun = pool.submit(own.late, failed)
        await_who_waits(database_url)
        claiming.commit()
        begun.result()
    head = desk.head(failed)
    assert (head["charging"], head["disputed"], head["due_minor"]) == (100, 100, 100)
    assert desk.record(record_row(again, "completed")) == "recorded"
    own.close()
    desk.close()


def test_news_of_a_first_charge_that_another_first_charge_waited_for_holds_it_back(
    database_url: str,
) -> None:
    """The second statement began before there was a head, and meets one that is in doubt."""
    desk, own = Desk(database_url), Desk(database_url)
    first = claim_row()
    again = claim_row(payment_id=first["payment_id"])
    with ThreadPoolExecutor(1) as pool, another(database_url, "select 1") as telling:
        telling.execute(*named("claim", first))
        telling.execute(*named("record", record_row(first, "failed")))
        telling.execute(*named("discrepancy", late_row(first)))
        begun = pool.submit(verdict, own, again, many=False)
        await_who_waits(database_url)
        telling.commit()
        assert begun.result() == "in_doubt"
    assert desk.head(first)["charging"] == 0
    own.close()
    desk.close()


def test_a_failure_that_news_waited_for_leaves_it_counted(database_url: str) -> None:
    desk, own = Desk(database_url), Desk(database_url)
    row = claim_row()
    assert desk.claim(row) == "claimed"
    with ThreadPoolExecutor(1) as pool, another(database_url, "select 1") as recording:
        recording.execute(*named("record", record_row(row, "failed")))
        begun = pool.submit(own.late, row)
        await_who_waits(database_url)
        recording.commit()
        begun.result()
    assert desk.head(row)["disputed"] == 100
    assert desk.claim(claim_row(payment_id=row["payment_id"])) == "in_doubt"
    own.close()
    desk.close()


def test_a_success_that_news_waited_for_is_not_counted_twice(database_url: str) -> None:
    desk, own = Desk(database_url), Desk(database_url)
    row = claim_row()
    assert desk.claim(row) == "claimed"
    with ThreadPoolExecutor(1) as pool, another(database_url, "select 1") as recording:
        recording.execute(*named("record", record_row(row, "completed")))
        begun = pool.submit(own.late, row)
        await_who_waits(database_url)
        recording.commit()
        begun.result()
    assert desk.head(row)["disputed"] == 0
    own.close()
    desk.close()


def test_two_pieces_of_news_at_once_are_both_counted(database_url: str) -> None:
    desk = Desk(database_url)
    for _ in range(10):
        failed = desk.done(to_status="failed", due_minor=1000)
        race(database_url, [lambda own, of=failed: own.late(of)] * 4)  # type: ignore[misc]
        assert desk.head(failed)["disputed"] == 400
    desk.close()


KEPT = ("tenant_id", "execution_id", "payment_id", "operation")


class Soak:
    """A worker that claims and records at random, over few keys and payments, in both forms."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.verdicts: Counter[str] = Counter()

    def __call__(self, desk: Desk) -> Counter[str]:
        for _ in range(30):
            size = self.chance.choice([1, 1, 4, 16, 48])
            self._claim(desk, [self._row() for _ in range(size)])
            self._record(desk, size)
        return self.verdicts

    def _row(self) -> Row:
        operation = self.chance.choices(
            ["charge", "authorize", "capture", "void", "refund"], [4, 3, 2, 1, 3]
        )[0]
        return claim_row(
            operation,
            tenant_id=self.chance.choice(["a", "b"]),
            payment_id=f"inv-{self.chance.randrange(60)}",
            idempotency_key=f"key-{self.chance.randrange(4000)}",
            amount_minor=self.chance.randrange(1, 60),
            due_minor=100,
        )

    def _claim(self, desk: Desk, rows: list[Row]) -> None:
        self._share(rows, desk.claim, desk.claim_many)

    def _record(self, desk: Desk, size: int) -> None:
        query = "select * from railcore_execution where next_check_at is not null limit %s"
        answers = [self._answer(stored) for stored in desk.sql(query, size)]
        self._share(answers, desk.record, desk.record_many)

    def _answer(self, stored: Row) -> Row:
        claimed = {name: stored[name] for name in KEPT}
        given = {"version": stored["version"], "from_status": stored["status"], "bucket": 7}
        row = record_row({**claim_row(), **claimed}, self.chance.choice(TO), **given)
        return {**row, "version": row["version"] + self.chance.choice([0, 0, 0, 1])}

    def _share(
        self,
        rows: list[Row],
        single: Callable[[Row], str],
        many: Callable[[Sequence[Row]], list[str]],
    ) -> None:
        """Use one statement for all; when it fails as a whole, one for each."""
        try:
            if len(rows) > 1:
                self.verdicts.update(many(rows))
                return
        except (psycopg.IntegrityError, psycopg.errors.DeadlockDetected) as error:
            self.verdicts[type(error).__name__] += 1
        for row in rows:
            try:
                self.verdicts[single(row)] += 1
            except (psycopg.IntegrityError, psycopg.errors.DeadlockDetected) as error:
                self.verdicts[type(error).__name__] += 1


TO = ["pending", "completed", "completed", "failed"]


def test_what_a_soak_leaves_replays(database_url: str) -> None:
    verdicts: Counter[str] = Counter()
    for each in race(database_url, [Soak(seed) for seed in range(4)]):
        assert isinstance(each, Counter)
        verdicts.update(each)
    assert verdicts["claimed"] > 50
    assert verdicts["recorded"] > 50
    desk = Desk(database_url)
    executions = desk.sql("select * from railcore_execution")
    for head in desk.sql("select * from railcore_payment"):
        events = desk.events(head)
        assert [it["seq"] for it in events] == list(range(1, head["seq"] + 1))
        own = [it for it in executions if it["tenant_id"] == head["tenant_id"]]
        assert replay([it for it in own if it["payment_id"] == head["payment_id"]]) == {
            name: head[name] for name in SUMS
        }
    assert verdicts["claimed"] == len(executions)
    assert verdicts["recorded"] == sum(it["version"] - 1 for it in executions)
    for table in ("railcore_event", "railcore_outbox"):
        [counted] = desk.sql(f"select count(*) from {table}")
        assert counted["count"] == sum(it["version"] for it in executions)
    last = """
        select count(*) from railcore_execution x join railcore_event e
          using (tenant_id, execution_id, version)
        where e.to_status = x.status and e.aggregateid = x.payment_id
    """
    assert desk.sql(last)[0]["count"] == len(executions)
    desk.close()


def replay(executions: Sequence[Row]) -> dict[str, int]:
    """Return the sums that these executions make."""
    sums = dict.fromkeys(SUMS, 0)
    stem = {"capture": "captur", "void": "void", "refund": "refund"}
    for it in executions:
        operation, amount = it["operation"], it["amount_minor"]
        if it["status"] in {"processing", "pending"}:
            sums[f"{stem.get(operation, 'charg')}ing"] += amount
        elif it["status"] == "completed" and operation in stem:
            sums[f"{stem[operation]}ed"] += amount
        elif it["status"] == "completed":
            sums["authorized"] += amount
            sums["captured"] += amount if operation == "charge" else 0
    return sums

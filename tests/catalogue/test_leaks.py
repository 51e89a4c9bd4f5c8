"""
CF3, HI1: no card number and no secret in anything that is stored, told, logged, raised or shown.

A provider writes card numbers into every field that it has. One story takes everything through it:
charges, authorizations, captures, refunds and voids, webhooks, lookups, resolutions, deliveries,
and the command line. Afterwards every place is searched.
"""

import base64
import io
import json
import logging
import os
import random
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote
from uuid import UUID

import attrs
import psycopg
import psycopg.sql
import pytest
import sqlalchemy
from click.testing import CliRunner

from railcore.clock import Deadline, SystemClock
from railcore.context import PaymentContext
from railcore.driven import DrivenRail
from railcore.engine import PaymentEngine
from railcore.enums import ExecutionStatus, Operation, PaymentRail, RouteMode
from railcore.envelope import structured
from railcore.execution import PaymentExecution
from railcore.http import HttpRequest, HttpResponse
from railcore.intake import Webhooks
from railcore.kernel import EngineSettings
from railcore.money import SAR, Money
from railcore.ports import OperatorDecision, Rail
from railcore.rails.card_psp import CardPspRail
from railcore.rails.manual import ManualSettlementRail
from railcore.rails.open_banking import OpenBankingPaymentRail
from railcore.redaction import Secret, holds_card_number, spelt_url
from railcore.registry import PaymentRailRegistry
from railcore.relay import Relay
from railcore.review import Orphan, Remedy
from railcore.routing import ConfigDrivenRouteResolver
from railcore.testing.outbox import InMemorySink
from railcore.webhooks import WebhookAccount, WebhookSettings
from railcore_adapters.cli import main
from railcore_adapters.credentials import FixedCredentials, FixedWebhookAccounts
from railcore_adapters.observers import JsonFormatter, LoggingObserver
from railcore_adapters.standard_webhooks import ID, SIGNATURE, TIMESTAMP, sign
from railcore_adapters.stub import SANDBOX_TIMING, StubBank, StubGateway, StubWebhooks
from railcore_adapters.transport_httpx import BearerAuthorizer, HttpxTransport
from railcore_sqlalchemy.inbox import SqlWebhookInbox
from railcore_sqlalchemy.outbox import SqlOutbox
from railcore_sqlalchemy.stores import SqlExecutionStore
from tests.catalogue.spilling import Cards, SpillingProvider, luhn, runs_in, serving
from tests.conftest import conninfo, fresh_database

SEED: Final = int(os.environ.get("RAILCORE_LEAK_SEED", "20261124"))
API_KEY: Final = "sk_test_CANARYapikeyCANARY"
_SIGNING: Final = b"CANARY signs the webhooks CANARY"
WEBHOOK_SECRET: Final = f"whsec_{base64.b64encode(_SIGNING).decode()}"
PASSWORD: Final = "CANARYdatabasepasswordCANARY"
SECRETS: Final = (API_KEY, WEBHOOK_SECRET, WEBHOOK_SECRET[6:], _SIGNING.decode(), PASSWORD)
STUB: Final = {"provider": "stub", "account": "main", "mode": "sandbox"}
ROUTES: Final = {
    "routes": {
        "cards": {"rail": "card_psp", **STUB},
        "bank": {"rail": "open_banking_pis", **STUB},
        "cash": {"rail": "manual_settlement", **STUB, "provider": "manual"},
    },
    "defaults": {"bank": "bank", "cash": "cash"},
    "default_route": "cards",
}
CHARGES: Final = (
    "visa",
    "declined",
    "refused",
    "unreadable",
    "broken",
    "strange",
    "pending",
    "late",
    "much",
    "currency",
    "status",
    "elsewhere",
)
Answer = TypeVar("Answer")


@attrs.define
class Evidence:
    """What was left behind, by place."""

    cards: Cards
    places: dict[str, list[str]] = attrs.field(factory=dict)

    def put(self, place: str, *texts: object) -> None:
        """Keep what was said at *place*."""
        self.places.setdefault(place, []).extend(map(str, texts))

    def shown(self, value: Answer) -> Answer:
        """Keep how *value* shows itself, and return it."""
        self.put("reprs", repr(value), value)
        return value

    def tried(self, call: Callable[[], Answer]) -> Answer | None:
        """Return what *call* returns; keep what it raises, in every form, and what it returns."""
        try:
            return self.shown(call())
        except Exception as error:  # noqa: BLE001 - what it is, is what is kept
            self.raised(error)
            return None

    def raised(self, error: BaseException) -> None:
        """Keep an exception as a tracker of errors would: with its causes and their locals."""
        told = traceback.TracebackException.from_exception(error, capture_locals=True)
        self.put("exceptions", repr(error), error)
        for one in _chain(told):
            own = [frame for frame in one.stack if "/src/railcore" in frame.filename]
            self.put("exceptions", *one.format_exception_only())
            self.put("locals", *(f"{frame.name}: {frame.locals}" for frame in own))

    def text(self, place: str) -> str:
        """Return everything that was said at *place*."""
        return "\n".join(self.places[place])


def _chain(told: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    yield told
    for one in (told.__cause__, told.__context__):
        if one is not None:
            yield from _chain(one)


@attrs.define
class Story:
    """A host, and everything that is done with it."""

    engine: PaymentEngine
    provider: SpillingProvider
    evidence: Evidence
    url: str
    folder: Path

    @property
    def cards(self) -> Cards:
        return self.evidence.cards

    def charge(
        self, name: str, amount_minor: int = 1200, **changed: Any
    ) -> PaymentExecution | None:
        return self.evidence.tried(
            lambda: self.engine.execute(self.asked(name, amount_minor, **changed))
        )

    def asked(self, name: str, amount_minor: int = 1200, **changed: Any) -> PaymentContext:
        wanted: dict[str, Any] = {
            "tenant_id": "acme",
            "payment_id": f"inv-{name}",
            "idempotency_key": name,
            "money": Money(amount_minor, SAR),
            "payment_option_key": "card",
            "metadata": {
                self.cards.text("our metadata name"): self.cards.text("our metadata value")
            },
        }
        return PaymentContext(**{**wanted, **changed})

    def charges(self) -> None:
        """Charge and authorize with every answer there is, then look them all up."""
        made = [
            self.charge(f"{operation}-{how}", instrument_token=f"tok_{how}", operation=operation)
            for operation in (Operation.CHARGE, Operation.AUTHORIZE)
            for how in CHARGES
        ]
        made.append(
            self.charge("bank", payment_option_key="bank", return_url="https://shop.example")
        )
        for one in filter(None, made):
            self.evidence.tried(partial(self.engine.recheck, one.tenant_id, one.execution_id))

    def follow_ups(self) -> None:
        """Capture, void and refund what can be, with every answer there is."""
        for operation, first in (
            (Operation.REFUND, Operation.CHARGE),
            (Operation.CAPTURE, Operation.AUTHORIZE),
            (Operation.VOID, Operation.AUTHORIZE),
        ):
            for last in range(10):
                name = f"{operation}-{last}"
                parent = self.charge(
                    f"for-{name}", 1000, instrument_token="tok_visa", operation=first
                )
                assert parent is not None
                assert parent.status is ExecutionStatus.COMPLETED
                done = self.charge(
                    name,
                    100 + last,
                    payment_id=parent.payment_id,
                    parent_execution_id=parent.execution_id,
                    operation=operation,
                )
                if done is not None:
                    self.evidence.tried(
                        partial(self.engine.recheck, done.tenant_id, done.execution_id)
                    )

    def refusals(self) -> None:
        """Offer card numbers as tokens and amounts; a host's own names are kept as they are."""
        for field in ("payer_token", "instrument_token"):
            number = self.cards.number(f"our {field}")
            changed: dict[str, Any] = {field: number}
            self.charge(f"field-{field}", **changed)
        for word in (self.cards.number("a wrong amount"), self.cards.text("a wrong amount")):
            self.evidence.tried(partial(Money.of, word + "x", SAR))

    def people(self) -> None:
        """Confirm and reject by hand, with card numbers as evidence."""
        for verb in ("confirm", "reject"):
            waiting = self.charge(f"cash-{verb}", payment_option_key="cash")
            assert waiting is not None
            decision = OperatorDecision(
                actor=self.cards.number("actor"), evidence=self.cards.number("evidence")
            )
            self.evidence.shown(decision)
            act = getattr(self.engine, verb)
            self.evidence.tried(partial(act, waiting.tenant_id, waiting.execution_id, decision))

    def webhooks(self) -> None:
        """Hear news of everything, well signed, badly signed, and not to be read."""
        for place, item in enumerate(list(self.provider.objects.values())):
            status = ("succeeded", "declined", "pending", "succeeded")[place % 4]
            told = {
                **self.provider.item(item, f"{item['object']}s", status),
                "reference": item["reference"],
                "object": item["object"],
            }
            told.pop("debug")
            if place % 7 == 0:
                told["status"] = self.cards.number("webhook status")
            if place % 11 == 0:
                told["reference"] = self.cards.number("webhook reference")
            event = {
                "id": self.cards.text("event.id"),
                "type": f"{self.cards.number('event.type')}.updated",
                "created_at": self.cards.text("event.created_at"),
                "data": told,
            }
            self.hear(json.dumps(event).encode())
        self.hear(json.dumps({"type": self.cards.number("an unknown type")}).encode())
        self.hear(self.cards.text("a webhook that is no JSON").encode())
        forged = Secret(f"whsec_{base64.b64encode(b'not ours, not at all').decode()}")
        self.hear(self.cards.text("forged webhook").encode(), forged)
        self.hear(self.cards.text("old webhook").encode(), at=time.time() - 4000)
        for _ in range(3):
            self.evidence.tried(lambda: self.engine.apply_inbox(100))

    def hear(self, body: bytes, secret: Secret | None = None, at: float | None = None) -> None:
        """Deliver *body* as the provider would."""
        event_id = self.cards.number("header webhook-id")
        timestamp = int(time.time() if at is None else at)
        headers = {
            ID: event_id,
            TIMESTAMP: str(timestamp),
            SIGNATURE: sign(secret or Secret(WEBHOOK_SECRET), event_id, timestamp, body),
            "x-debug": self.cards.text("webhook header"),
        }
        self.evidence.tried(lambda: self.engine.handle_webhook("stub", headers, body))

    def review(self) -> None:
        """Note an orphan, look at the list, and resolve everything on it."""
        self.evidence.tried(
            lambda: self.engine.note_orphan(
                Orphan(
                    tenant_id="acme",
                    rail=PaymentRail.CARD_PSP,
                    provider="stub",
                    account="main",
                    mode=RouteMode.SANDBOX,
                    provider_ref=self.cards.number("orphan reference"),
                    money=Money(1200, SAR),
                )
            )
        )
        listed = self.evidence.tried(self.engine.review)
        assert listed is not None
        assert listed.discrepancies
        for place, noted in enumerate(listed.discrepancies):
            remedy = (Remedy.ADOPT, Remedy.ACCEPTED, Remedy.REFUND)[place % 3]
            decision = OperatorDecision(
                actor=self.cards.number("resolving actor"),
                evidence=self.cards.number("resolving evidence"),
            )
            resolving = partial(self.engine.resolve, noted.tenant_id, noted.discrepancy_id)
            self.evidence.tried(partial(resolving, remedy, decision))

    def stories(self, executions: Sequence[UUID]) -> None:
        """Explain everything, and read it back in every way."""
        for execution_id in executions:
            story = self.evidence.tried(partial(self.engine.explain, "acme", execution_id))
            assert story is not None
            self.evidence.put("stories", story.text(), json.dumps(story.json()))
            found = self.evidence.tried(partial(self.engine.get, "acme", execution_id))
            assert found is not None
            payment_id = found.payment_id
            self.evidence.tried(partial(self.engine.payment, "acme", payment_id))
            self.evidence.tried(partial(self.engine.events, "acme", payment_id))

    def relay(self, database: sqlalchemy.Engine) -> None:
        """Deliver every event."""
        sink = InMemorySink()
        Relay(SqlOutbox(database), sink).drain()
        for event in sink.taken:
            self.evidence.put("events", structured(event).decode(), event)

    def commands(self, executions: Sequence[UUID]) -> None:
        """Say everything that the command line has to say."""
        routes, file = self.folder / "routes.toml", self.folder / "run.jsonl"
        routes.write_text(
            'routes.cards = {rail = "card_psp", provider = "stub", account = "main",'
            ' mode = "sandbox"}\ndefault_route = "cards"\n'
        )
        lines = [
            {
                "tenant_id": "acme",
                "payment_id": f"run-{how}",
                "idempotency_key": f"run-{how}",
                "amount": "12.00",
                "currency": "SAR",
                "payment_option_key": "card",
                "instrument_token": f"tok_{how}",
                "metadata": {"said": self.cards.text("metadata of a line")},
            }
            for how in CHARGES
        ]
        bad = [
            {**lines[0], "amount": self.cards.text("amount of a line")},
            {**lines[0], "instrument_token": self.cards.number("token of a line")},
            {**lines[0], self.cards.text("name in a line"): "x"},
            self.cards.text("a line that is no JSON"),
        ]
        file.write_text("".join(f"{json.dumps(one)}\n" for one in [*lines, *bad]))
        on = ("--routes", str(routes), "--stub-url", self.provider.url)
        self.invoke("run", str(file), *on, "--settle-s", "0", "--log", "--lease-s", "15")
        self.invoke("run", str(file), *on, "--settle-s", "0", "--json", "--lease-s", "15")
        self.invoke("worker", *on, "--once", "--print-events", "--log", "--lease-s", "15")
        for form in ((), ("--json",)):
            self.invoke("review", "list", "--all", *form)
            for one in executions[::7]:
                self.invoke("explain", str(one), "--routes", str(routes), *form)
        self.invoke("webhooks", "parked")
        self.invoke("webhooks", "replay", self.cards.number("an event to replay"))
        self.invoke("events", "parked")
        self.invoke("events", "replay", "2026-01-01")
        self.invoke("doctor", "--routes", str(routes), "--json")

    def invoke(self, *words: str) -> None:
        """Keep what one command says."""
        result = CliRunner().invoke(
            main,
            words,
            env={
                "RAILCORE_DATABASE_URL": self.url,
                "RAILCORE_SECRET_STUB_MAIN": API_KEY,
                "RAILCORE_WEBHOOK_SECRET_STUB_MAIN": WEBHOOK_SECRET,
                "COLUMNS": "400",
            },
        )
        self.evidence.put("command line", result.output)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            self.evidence.raised(result.exception)

    def outages(self) -> None:
        """Fail in every way that has a credential at hand."""
        monotonic = SystemClock().monotonic
        keys = FixedCredentials({("stub", "main"): Secret(API_KEY)})
        with HttpxTransport.open(authorizer=BearerAuthorizer(keys)) as transport:
            for url in ("http://127.0.0.1:9/x", "http://nowhere.invalid/"):
                asked = HttpRequest(
                    method="POST",
                    url=url,
                    body=self.cards.text("our own request").encode(),
                    moves_money=True,
                    credentials_of=("acme", "stub", "main"),
                )
                self.evidence.shown(asked)
                send_by = Deadline(monotonic() + 5, monotonic)
                self.evidence.tried(partial(transport.send, asked, send_by))
        self.evidence.shown(keys)
        wrong = sqlalchemy.make_url(self.url).set(port=1, host="127.0.0.1")
        for nowhere in (wrong, wrong.set(database="nowhere")):
            away = sqlalchemy.create_engine(nowhere)
            self.evidence.tried(partial(SqlExecutionStore(away).open_executions, 1))
            self.evidence.shown(away)
            away.dispose()


def dump(url: str) -> Iterator[str]:
    """Yield every row of every table, bytes as the text that they are."""
    with psycopg.connect(conninfo(url), autocommit=True) as hand:
        tables = hand.execute(
            "select table_schema, table_name from information_schema.tables"
            " where table_schema not in ('pg_catalog', 'information_schema')"
        ).fetchall()
        assert len(tables) > 8
        for schema, table in tables:
            name = psycopg.sql.Identifier(schema, table)
            for row in hand.execute(psycopg.sql.SQL("select * from {}").format(name)):
                yield f"{table}: " + " | ".join(map(_text, row))


def _text(value: object) -> str:
    if isinstance(value, bytes | memoryview):
        return bytes(value).decode("latin-1")
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


@contextmanager
def logging_everything(evidence: Evidence) -> Iterator[None]:
    """Keep what everybody logs: ours as it is, that of libraries as ``JsonFormatter`` writes it."""
    own, all_of_it = io.StringIO(), io.StringIO()
    root, names = logging.getLogger(), ("httpx", "httpcore", "sqlalchemy", "psycopg", "railcore")
    levels = {name: logging.getLogger(name).level for name in names}
    ours, everybodys = logging.StreamHandler(own), logging.StreamHandler(all_of_it)
    ours.addFilter(lambda record: record.name.startswith("railcore"))
    everybodys.setFormatter(JsonFormatter())
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    for handler in (ours, everybodys):
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in (ours, everybodys):
            root.removeHandler(handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        evidence.put("our log", own.getvalue())
        evidence.put("everybody's log", all_of_it.getvalue())


@pytest.fixture(scope="module")
def told(
    postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Evidence:
    """Play the story once, and return what it left behind."""
    evidence = Evidence(Cards(random.Random(SEED)))
    with (
        fresh_database(postgres_url, template=template_database) as plain_url,
        serving(SpillingProvider(evidence.cards)) as provider,
        logging_everything(evidence),
    ):
        url = sqlalchemy.make_url(plain_url).set(password=PASSWORD)
        rendered = url.render_as_string(hide_password=False)
        database = sqlalchemy.create_engine(url, echo=False)
        keys = FixedCredentials({("stub", "main"): Secret(API_KEY)})
        with HttpxTransport.open(authorizer=BearerAuthorizer(keys)) as transport:
            engine = engine_over(transport, database, provider.url)
            story = Story(engine, provider, evidence, rendered, tmp_path_factory.mktemp("leaks"))
            story.charges()
            story.follow_ups()
            story.refusals()
            story.people()
            story.webhooks()
            story.review()
            with psycopg.connect(conninfo(rendered), autocommit=True) as hand:
                found = hand.execute("select execution_id from railcore_execution").fetchall()
            executions = [one for (one,) in found]
            story.stories(executions)
            story.relay(database)
            story.commands(executions)
            story.outages()
        database.dispose()
        evidence.put("database", *dump(rendered))
    evidence.put("what became of it", len(executions), dict(provider.said))
    return evidence


def engine_over(transport: HttpxTransport, database: sqlalchemy.Engine, url: str) -> PaymentEngine:
    """Return an engine with cards, open banking and cash, which hears webhooks and logs."""
    timing = attrs.evolve(SANDBOX_TIMING, answer_timeout_s=5.0)
    rails = PaymentRailRegistry[Rail]()
    cards = CardPspRail(StubGateway(url, timing))
    bank = OpenBankingPaymentRail(StubBank(url, timing))
    rails.register(PaymentRail.CARD_PSP, "stub", DrivenRail(cards, transport.send))
    rails.register(PaymentRail.OPEN_BANKING_PIS, "stub", DrivenRail(bank, transport.send))
    cash: DrivenRail[HttpRequest, HttpResponse] = DrivenRail(ManualSettlementRail(), transport.send)
    rails.register(PaymentRail.MANUAL_SETTLEMENT, "manual", cash)
    account = WebhookAccount(account="main", secrets=(Secret(WEBHOOK_SECRET),))
    return PaymentEngine(
        rails=rails,
        routes=ConfigDrivenRouteResolver.from_mapping(ROUTES, offered=rails.offered),
        store=SqlExecutionStore(database),
        settings=EngineSettings(breaker=None),
        observer=LoggingObserver(),
        webhooks=Webhooks(
            providers={"stub": StubWebhooks()},
            accounts=FixedWebhookAccounts({"stub": [account]}),
            inbox=SqlWebhookInbox(database),
            settings=WebhookSettings(first_retry_s=0.01, park_after=2),
        ),
    )


PLACES: Final = (
    "command line",
    "database",
    "events",
    "everybody's log",
    "exceptions",
    "locals",
    "our log",
    "reprs",
    "stories",
)


def test_the_story_went_everywhere(told: Evidence) -> None:
    assert set(told.places) >= set(PLACES)
    assert all(len(told.text(place)) > 1000 for place in PLACES)
    assert len(told.cards.places) > 1000


@pytest.mark.parametrize("place", sorted({*PLACES} - {"locals"}))
def test_hi1_no_card_number_is_left_in(told: Evidence, place: str) -> None:
    text = told.text(place)

    assert told.cards.found_in(text) == []
    assert runs_in(text) == []


@pytest.mark.parametrize("place", PLACES)
def test_cf3_no_secret_is_left_in(told: Evidence, place: str) -> None:
    text = told.text(place)

    assert [one[:8] for one in SECRETS if one in text] == []


def test_the_search_finds_what_it_is_there_for() -> None:
    cards = Cards(random.Random(1))
    number = cards.number("somewhere")

    assert luhn("4111111111111111")
    assert not luhn("4111111111111112")
    assert runs_in(f"id={number};") == [number]
    assert cards.found_in(f"{number[:4]} {number[4:8]}-{number[8:]}") == ["somewhere"]
    assert runs_in(f"{number[:-1]}{(int(number[-1]) + 1) % 10}") == []
    assert runs_in("a3f0000000000000000000000000000004111111111111111ff") == []


def test_hi1_a_url_that_holds_a_card_number_leads_where_it_led() -> None:
    url = "https://4.example:8443/pay/4111111111111111?s=5500-0000-0000-0004&t=1234567890123"

    spelt = spelt_url(url)

    assert not holds_card_number(spelt)
    assert unquote(spelt) == url
    assert spelt_url(spelt) == spelt
    assert spelt_url("https://shop.example/1234567890123") == "https://shop.example/1234567890123"

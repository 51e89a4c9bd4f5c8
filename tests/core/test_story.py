"""
The stories that support people read, word for word.

``tests/core/stories`` holds them; after a wanted change of words, delete what differs and run again
with ``RAILCORE_WRITE_STORIES=1``.
"""

import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from railcore.enums import Idempotency, Lookup, Operation, PendingReason
from railcore.errors import ExecutionNotFoundError
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.kernel import absence_is_proof, may_resend
from railcore.money import SAR, Money
from railcore.ports import OperatorDecision
from railcore.redaction import holds_card_number
from railcore.results import NextAction, NextActionKind, RailResult
from railcore.review import Remedy
from railcore.routing import ConfigDrivenRouteResolver
from railcore.story import Story, _proven_at, _resend_until
from tests.core import test_review as review
from tests.core.hosts import COLOURS, Host, find_nothing, raises, run
from tests.core.made import CAPABLE, ID, NOW, context, unknown_execution

FOLDER = Path(__file__).parent / "stories"
UNKNOWN = RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)


def explain(host: Host, execution: PaymentExecution) -> Story:
    engine: Any = host.engine
    told: Story = run(engine.explain(execution.tenant_id, execution.execution_id))
    return told


def paid(host: Host) -> PaymentExecution:
    return host.execute(context(correlation_id="order-77", due=Money(3000, SAR)))


def declined(host: Host) -> PaymentExecution:
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.INSUFFICIENT_FUNDS)
    return host.execute(context())


def misconfigured(host: Host) -> PaymentExecution:
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.INVALID_CREDENTIALS)
    return host.execute(context(merchant_initiated=True))


def in_doubt(host: Host) -> PaymentExecution:
    host.rail.answer = lambda _: UNKNOWN
    return host.execute(context())


def looked_at_twice(host: Host) -> PaymentExecution:
    host.rail.lookup = find_nothing
    execution = in_doubt(host)
    host.rail.lookup = lambda _: UNKNOWN
    host.refresh_later(execution)
    return host.refresh_later(execution)


def past_the_window(host: Host) -> PaymentExecution:
    execution = in_doubt(host)
    host.clock.advance(3600)
    return execution


def resent(host: Host) -> PaymentExecution:
    execution = in_doubt(host)
    return host.refresh_later(execution)


def without_idempotency(host: Host) -> PaymentExecution:
    host.rail.capabilities = attrs.evolve(
        CAPABLE,
        idempotency=Idempotency.NONE,
        lookup=Lookup.NONE,
        lookup_is_authoritative=False,
    )
    host.restart()
    return in_doubt(host)


def remembered_for_ever(host: Host) -> PaymentExecution:
    timing = attrs.evolve(CAPABLE.timing, key_window_s=None)
    host.rail.capabilities = attrs.evolve(CAPABLE, timing=timing)
    host.restart()
    return in_doubt(host)


def killed(host: Host) -> PaymentExecution:
    host.rail.answer = raises(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        host.execute(context())
    return host.find(context())


def broken_here(host: Host) -> PaymentExecution:
    host.rail.answer = raises(RuntimeError("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        host.execute(context())
    return host.find(context())


def at_the_bank(host: Host) -> PaymentExecution:
    redirect = NextAction(kind=NextActionKind.REDIRECT, url="https://bank.example/s3cr3t-session")
    expires_at = NOW + timedelta(minutes=15)
    host.rail.answer = lambda _: RailResult.pending(
        PendingReason.CUSTOMER_ACTION, next_action=redirect, expires_at=expires_at
    )
    return host.execute(context())


def awaiting_a_transfer(host: Host) -> PaymentExecution:
    quote = NextAction(kind=NextActionKind.QUOTE_REFERENCE, reference="RF18539007547034")
    host.rail.answer = lambda _: RailResult.pending(
        PendingReason.AWAITING_FUNDS, next_action=quote, reported=Money(500, SAR), progress=500
    )
    return host.execute(context())


def at_the_provider(host: Host) -> PaymentExecution:
    host.rail.answer = lambda _: RailResult.pending(
        PendingReason.PROVIDER_PROCESSING, provider_ref="ch_1"
    )
    return host.execute(context())


def for_a_person(host: Host) -> PaymentExecution:
    host.rail.answer = lambda _: RailResult.pending(PendingReason.MANUAL_REVIEW)
    return host.execute(context())


def overdue(host: Host) -> PaymentExecution:
    execution = at_the_provider(host)
    host.clock.advance(86_400)
    return execution


def refunded(host: Host) -> PaymentExecution:
    charge = host.execute(context())
    return host.execute(
        context(
            idempotency_key="refund-1",
            operation=Operation.REFUND,
            money=Money(250, SAR),
            parent_execution_id=charge.execution_id,
        )
    )


def late_money(host: Host) -> PaymentExecution:
    review.late_success(host)
    return host.find(context())


def late_money_accepted(host: Host) -> PaymentExecution:
    review.resolve(host, review.late_success(host), Remedy.ACCEPTED)
    return host.find(context())


def adopted(host: Host) -> PaymentExecution:
    noted = review.resolve(host, review.late_success(host), Remedy.ADOPT)
    return review.made_of(host, noted)


def given_back(host: Host) -> PaymentExecution:
    noted = review.resolve(host, review.late_success(host), Remedy.REFUND)
    return review.made_of(host, noted)


def orphan_adopted(host: Host) -> PaymentExecution:
    return review.made_of(host, review.resolve(host, review.orphan(host), Remedy.ADOPT))


def another_amount(host: Host) -> PaymentExecution:
    review.another_amount(host, Money(1000, SAR))
    return host.find(context())


def charged_twice(host: Host) -> PaymentExecution:
    host.rail.answer = review.twice
    return host.execute(context())


STORIES: tuple[Callable[[Host], PaymentExecution], ...] = (
    paid,
    declined,
    misconfigured,
    in_doubt,
    looked_at_twice,
    past_the_window,
    resent,
    without_idempotency,
    remembered_for_ever,
    killed,
    broken_here,
    at_the_bank,
    awaiting_a_transfer,
    at_the_provider,
    for_a_person,
    overdue,
    refunded,
    late_money,
    late_money_accepted,
    adopted,
    given_back,
    orphan_adopted,
    another_amount,
    charged_twice,
)


class Ids:
    """Ids that are the same in every run."""

    def __init__(self) -> None:
        self.next = ID.int

    def __call__(self) -> Any:
        self.next += 1
        return type(ID)(int=self.next)


def told(scene: Callable[[Host], PaymentExecution], host: Host) -> Story:
    return explain(host, scene(host))


@pytest.fixture(params=COLOURS)
def host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Host:
    ids = Ids()
    monkeypatch.setattr("railcore.engine.uuid7_maker", lambda _: ids)
    return Host(request.param)


def golden(text: str, colour: str) -> str:
    """Engines are named after their colour, which is no part of the story."""
    return text.replace(f"{colour}-engine", "engine") + "\n"


@pytest.mark.parametrize("scene", STORIES, ids=lambda scene: scene.__name__)
def test_a_story_is_told_word_for_word(
    host: Host, scene: Callable[[Host], PaymentExecution]
) -> None:
    path = FOLDER / f"{scene.__name__}.txt"
    text = golden(told(scene, host).text(), host.colour)
    if os.environ.get("RAILCORE_WRITE_STORIES") and not path.exists():
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("scene", STORIES, ids=lambda scene: scene.__name__)
def test_a_story_for_programs_is_json(
    host: Host, scene: Callable[[Host], PaymentExecution]
) -> None:
    story = told(scene, host)
    told_again: Any = json.loads(json.dumps(story.json()))

    assert told_again["execution_id"] == str(story.execution_id)
    assert told_again["headline"] == story.headline
    assert list(told_again["story"]) == [chapter.title for chapter in story.chapters]


def test_the_rules_are_told_to_programs(host: Host) -> None:
    execution = in_doubt(host)

    facts = explain(host, execution).json()

    assert facts["is_in_doubt"] is True
    assert facts["resend"] == {
        "is_allowed": True,
        "until": (NOW + timedelta(seconds=600 - 125)).isoformat(),
    }
    assert facts["absence_proves_at"] == (NOW + timedelta(seconds=185)).isoformat()


def test_after_the_window_no_resend_is_promised(host: Host) -> None:
    facts = told(past_the_window, host).json()

    assert facts["resend"] == {"is_allowed": False, "until": None}


def test_a_provider_that_is_gone_is_said(host: Host) -> None:
    execution = in_doubt(host)
    host.restart(routes=ConfigDrivenRouteResolver([], {}, None), rails={})
    story = explain(host, execution)

    assert "Nothing is registered for its provider any more" in story.text()
    assert story.json()["resend"] is None


def test_no_story_holds_what_could_be_a_card_or_a_secret(host: Host) -> None:
    card = "4111111111111111"
    asked = context(
        idempotency_key=f"key-{card}",
        payment_id=f"inv-{card}",
        instrument_token="tok_s3cr3t",
        payer_token="payer_s3cr3t",
        metadata={"note": card, "pin": "s3cr3t"},
        return_url="https://shop.example/?session=s3cr3t",
        correlation_id=card,
    )
    host.rail.answer = lambda one: RailResult.success(
        card, Money(1, SAR), provider_response={"secret": "s3cr3t", "number": card}
    )
    execution = host.execute(asked)
    (noted,) = review.review(host).discrepancies
    review.resolve(
        host, noted, Remedy.ADOPT, OperatorDecision(actor=card, evidence=f"slip {card}"[5:])
    )

    story = explain(host, execution)

    for text in (story.text(), json.dumps(story.json())):
        assert "s3cr3t" not in text
        assert card not in text
        assert not holds_card_number(text.replace(" UTC", "Z"))


def test_what_nobody_asked_has_no_story(host: Host) -> None:
    engine: Any = host.engine
    with pytest.raises(ExecutionNotFoundError):
        run(engine.explain("acme", ID))


def test_a_rule_that_is_told_is_the_rule_that_is_kept() -> None:
    """The story says until when R3 allows a resend; the kernel stops in that very moment."""
    execution = unknown_execution()
    until, proven_at = _resend_until(execution, CAPABLE), _proven_at(execution, CAPABLE)
    assert until is not None
    assert proven_at is not None
    a_bit = timedelta(microseconds=1)

    assert may_resend(execution, CAPABLE, until - a_bit)
    assert not may_resend(execution, CAPABLE, until)
    assert not absence_is_proof(execution, CAPABLE, proven_at)
    assert absence_is_proof(execution, CAPABLE, proven_at + a_bit)

"""The accounting finds every kind of mistake in the books."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import attrs
import pytest

from railcore_adapters.cli.accounting import (
    Promise,
    check_books,
    check_doubt,
    check_lines,
    check_movements,
)
from railcore_adapters.cli.books import (
    Books,
    EventRow,
    ExecutionRow,
    HeadRow,
    TransferRow,
    WalletRow,
)
from railcore_adapters.sandbox import Charge

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def execution(name: str, rail: str, status: str, **more: Any) -> ExecutionRow:
    known: dict[str, Any] = {
        "tenant_id": "acme",
        "execution_id": UUID(int=sum(map(ord, name))),
        "payment_id": name,
        "operation": "charge",
        "amount_minor": 1250,
        "currency": "SAR",
        "idempotency_key": f"{name}/1",
        "provider_key": f"key-{name}",
        "rail": rail,
        "provider": "stub",
        "account": "main",
        "status": status,
        "pending_reason": "awaiting_funds" if status == "pending" else None,
        "failure_code": "declined" if status == "failed" else None,
        "cause_code": None,
        "version": 2,
        "provider_ref": f"ch-{name}",
        "settled_minor": None,
        "next_check_at": NOW if status == "pending" else None,
        "created_at": NOW,
    }
    return ExecutionRow(**{**known, **more})


def events(one: ExecutionRow) -> list[EventRow]:
    said = {"actor": "layla", "evidence": "statement-7"}
    return [
        event(one, 1, "none", "processing"),
        event(one, 2, "processing", one.status.value, **said),
    ]


def event(one: ExecutionRow, seq: int, before: str, after: str, **said: str) -> EventRow:
    return EventRow(
        tenant_id=one.tenant_id,
        payment_id=one.payment_id,
        seq=seq,
        execution_id=one.execution_id,
        version=seq,
        from_status=before,
        to_status=after,
        actor=said.get("actor"),
        evidence=said.get("evidence"),
    )


def head(one: ExecutionRow) -> HeadRow:
    is_done = one.status == "completed"
    return HeadRow(
        tenant_id=one.tenant_id,
        payment_id=one.payment_id,
        seq=2,
        currency="SAR",
        due_minor=1250,
        charging=1250 if one.is_open else 0,
        authorized=1250 if is_done else 0,
        capturing=0,
        captured=1250 if is_done else 0,
        voiding=0,
        voided=0,
        refunding=0,
        refunded=0,
    )


def wallet(name: str, kind: str, credit: int, debit: int) -> WalletRow:
    mine = (credit, debit) if kind == "customer" else (0, 0)
    return WalletRow(
        tenant_id="acme",
        account_id=name,
        currency="SAR",
        kind=kind,
        credits_posted=mine[0],
        debits_posted=mine[1],
        debits_pending=0,
        credits=credit,
        debits=debit,
        held=0,
    )


CARD = execution("card", "card_psp", "completed")
DECLINED = execution("declined", "card_psp", "failed")
TRANSFER = execution("transfer", "bank_transfer", "completed")
WAITING = execution("waiting", "bank_transfer", "pending")
PAID = execution("paid", "wallet", "completed")
ALL = (CARD, DECLINED, TRANSFER, WAITING, PAID)

BOOKS = Books(
    executions=ALL,
    events=[told for one in ALL for told in events(one)],
    heads=[head(one) for one in ALL],
    wallets=[
        wallet("w-1", "customer", 5000, 1250),
        wallet("house", "house", 1250, 0),
        wallet("treasury", "house", 0, 5000),
    ],
    transfers=[
        TransferRow(
            tenant_id="acme",
            reference=PAID.execution_id,
            kind="post",
            amount_minor=1250,
            currency="SAR",
        )
    ],
    discrepancies=0,
    read_at=NOW,
)
CHARGE = Charge(
    id="ch_1",
    service="psp",
    account="main",
    reference=CARD.provider_key,
    idempotency_key=CARD.provider_key,
    amount_minor=1250,
    currency="SAR",
    at=NOW,
)


def broken(promises: Sequence[Promise]) -> list[str]:
    return [promise.text for promise in promises if not promise.is_kept]


def test_books_that_add_up_keep_every_promise() -> None:
    promises = [*check_books(BOOKS), *check_movements(BOOKS, [CHARGE]), check_doubt(BOOKS)]

    assert broken(promises) == []
    assert all(promise.count for promise in promises)


@pytest.mark.parametrize(
    ("charges", "promise"),
    [
        ([CHARGE, replace(CHARGE, id="ch_2")], "Nothing was charged, captured or refunded twice"),
        ([CHARGE, replace(CHARGE, reference="unheard-of")], "Nothing was lost"),
        ([CHARGE, replace(CHARGE, reference=DECLINED.provider_key)], "Nothing was lost"),
        ([replace(CHARGE, amount_minor=1251)], "Nothing was lost"),
        ([replace(CHARGE, currency="AED")], "Nothing was lost"),
        ([], "Nothing was made up"),
    ],
)
def test_a_ledger_that_tells_otherwise_breaks_a_promise(
    charges: Sequence[Charge], promise: str
) -> None:
    (found,) = broken(check_movements(BOOKS, charges))

    assert found.startswith(promise)


@pytest.mark.parametrize(
    ("changes", "promise"),
    [
        ({"events": BOOKS.events[:-1]}, "Every payment's journal"),
        (
            {"events": [attrs.evolve(BOOKS.events[0], seq=7), *BOOKS.events[1:]]},
            "Every payment's journal",
        ),
        (
            {"events": [attrs.evolve(BOOKS.events[0], version=2), *BOOKS.events[1:]]},
            "Every change has exactly one event",
        ),
        (
            {"executions": [attrs.evolve(CARD, version=3), *ALL[1:]]},
            "Every change has exactly one event",
        ),
        (
            {"heads": [attrs.evolve(BOOKS.heads[0], captured=0), *BOOKS.heads[1:]]},
            "Every payment's sums",
        ),
        (
            {"heads": [attrs.evolve(BOOKS.heads[0], due_minor=1000), *BOOKS.heads[1:]]},
            "Every payment's sums",
        ),
        (
            {"wallets": [attrs.evolve(BOOKS.wallets[1], credits=1251), *BOOKS.wallets[::2]]},
            "Wallet debits equal credits",
        ),
        (
            {"wallets": [attrs.evolve(BOOKS.wallets[0], debits_posted=0), *BOOKS.wallets[1:]]},
            "Wallet debits equal credits",
        ),
        ({"transfers": [*BOOKS.transfers, *BOOKS.transfers]}, "Every wallet payment moved"),
        ({"transfers": []}, "Every wallet payment moved"),
        (
            {"executions": [*ALL[:3], attrs.evolve(WAITING, next_check_at=None), PAID]},
            "No open payment is forgotten",
        ),
        (
            {"events": [attrs.evolve(one, actor=None) for one in BOOKS.events]},
            "Money that people confirmed",
        ),
    ],
)
def test_books_that_do_not_add_up_break_a_promise(changes: dict[str, Any], promise: str) -> None:
    found = broken(check_books(attrs.evolve(BOOKS, **changes)))

    assert any(text.startswith(promise) for text in found)


def test_two_executions_of_one_key_break_a_promise() -> None:
    twice = attrs.evolve(BOOKS, executions=[*ALL, attrs.evolve(CARD, execution_id=uuid4())])

    assert any(text.startswith("Every key stands for one") for text in broken(check_books(twice)))


def test_an_unknown_outcome_breaks_the_promise_that_no_doubt_is_left() -> None:
    unknown = execution("waiting", "card_psp", "pending", pending_reason="outcome_unknown")

    assert not check_doubt(attrs.evolve(BOOKS, executions=[*ALL, unknown])).is_kept


def test_a_charge_in_doubt_is_not_lost() -> None:
    unknown = execution("waiting", "card_psp", "pending", pending_reason="outcome_unknown")
    charges = [replace(CHARGE, reference=unknown.provider_key), CHARGE]

    assert broken(check_movements(attrs.evolve(BOOKS, executions=[*ALL, unknown]), charges)) == []


def test_a_line_without_an_answer_breaks_a_promise() -> None:
    assert check_lines(3, with_execution=2, refused=1, unanswered=0).is_kept
    assert not check_lines(3, with_execution=2, refused=0, unanswered=0).is_kept
    assert not check_lines(3, with_execution=2, refused=0, unanswered=1).is_kept

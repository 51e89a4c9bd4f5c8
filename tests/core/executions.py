"""An execution for tests of rails and gateways."""

from typing import Any
from uuid import UUID

import attrs

from railcore.context import PaymentContext
from railcore.enums import PaymentRail, RouteMode
from railcore.execution import PaymentExecution
from railcore.lifecycle import Fact, FactSource, decide, evolve
from railcore.money import SAR, Money
from railcore.results import RailResult


def an_execution(
    rail: PaymentRail = PaymentRail.CARD_PSP, *, provider: str = "stub", **changed: Any
) -> PaymentExecution:
    """A charge of 12.50 SAR with ``tok_visa``, claimed and sent; *changed* is about the context."""
    asked: dict[str, Any] = {
        "tenant_id": "acme",
        "payment_id": "invoice-1",
        "idempotency_key": "key-1",
        "money": Money(1250, SAR),
        "payment_option_key": "card.visa",
        "instrument_token": "tok_visa",
        "return_url": "https://shop.example/back",
    }
    return PaymentExecution(
        execution_id=UUID(int=1),
        context=PaymentContext(**{**asked, **changed}),
        rail=rail,
        provider=provider,
        account="main",
        mode=RouteMode.SANDBOX,
        send_count=1,
    )


def after(execution: PaymentExecution, result: RailResult) -> PaymentExecution:
    """The execution once *result* is recorded."""
    decision = decide(execution, Fact(result=result, source=FactSource.CALL))
    return execution if decision.change is None else evolve(execution, decision.change)


def on_account(execution: PaymentExecution, account: str) -> PaymentExecution:
    """The same execution on another route account."""
    return attrs.evolve(execution, account=account)

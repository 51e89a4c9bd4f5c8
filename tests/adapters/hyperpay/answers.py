"""Answers as HyperPay gives them, and a way to play a flow against them."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import attrs

from railcore.enums import Operation, RouteMode
from railcore.execution import PaymentExecution
from railcore.http import Exchange, HttpRequest, HttpResponse
from railcore.money import SAR, Money
from railcore.results import RailResult
from railcore_adapters.hyperpay import HyperPayAccount, HyperPayGateway
from railcore_adapters.hyperpay.wire import TYPES, reference_of
from tests.core.executions import an_execution

CHECKOUT = "0123456789ABCDEF0123456789ABCDEF.node01"
CARDS = HyperPayAccount(entity_id="entityOfCards")
MADA = HyperPayAccount(entity_id="entityOfMada", brands=("MADA",))
GATEWAY = HyperPayGateway(accounts={"main": CARDS, "mada": MADA})


def asked(
    operation: Operation = Operation.CHARGE,
    *,
    account: str = "main",
    mode: RouteMode = RouteMode.SANDBOX,
    token: str | None = "8ac7a4registration",
    money: Money = Money(1250, SAR),
    **state: Any,
) -> PaymentExecution:
    """An execution at HyperPay; a follow-up acts on the payment ``parent``."""
    more: dict[str, Any] = {"instrument_token": token}
    if operation.follows_a_parent:
        more = {"instrument_token": None, "parent_execution_id": UUID(int=9)}
        state = {"parent_ref": "8ac7a4parent", **state}
    made = an_execution(provider="hyperpay", operation=operation, money=money, **more)
    return attrs.evolve(made, account=account, mode=mode, **state)


def payment(execution: PaymentExecution, code: str = "000.000.000", **changed: Any) -> Any:
    """What HyperPay says of the payment of *execution*; a value of None leaves a name out."""
    said = {
        "id": "8ac7a4payment",
        "paymentType": TYPES[execution.operation],
        "paymentBrand": "VISA",
        "amount": f"{execution.money.to_major():.2f}",
        "currency": execution.money.currency.code,
        "merchantTransactionId": reference_of(execution.provider_key),
        "result": {"code": code, "description": "in words"},
        "timestamp": "2026-08-30 11:13:20+0000",
        **changed,
    }
    return {name: value for name, value in said.items() if value is not None}


def found(*payments: Any, at: str = "2026-08-30 11:20:00+0000") -> Any:
    """A list of payments, as a query answers."""
    result = {"code": "000.000.100", "description": "in words"}
    return {"result": result, "payments": list(payments), "timestamp": at}


def nothing(at: str = "2026-08-30 11:20:00+0000") -> Any:
    """What a query answers that finds nothing."""
    return {"result": {"code": "700.400.580", "description": "in words"}, "timestamp": at}


def answer(body: Any, status: int = 200, **headers: str) -> HttpResponse:
    """*body* as JSON."""
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(status=status, headers=told, body=json.dumps(body).encode())


def played(
    flow: Exchange[RailResult], *answers: HttpResponse
) -> tuple[RailResult, list[HttpRequest]]:
    """Return what *flow* makes of *answers*, and what it asked."""
    requests, waiting = [], list(answers)
    try:
        request = next(flow)
        while True:
            requests.append(request)
            request = flow.send(waiting.pop(0))
    except StopIteration as end:
        assert not waiting, "every answer is heard"
        return end.value, requests


def form_of(request: HttpRequest) -> Mapping[str, str]:
    """The fields that *request* sends."""
    return dict(parse_qsl(request.body.decode(), keep_blank_values=True, strict_parsing=True))


def query_of(request: HttpRequest) -> Mapping[str, str]:
    """What *request* asks for in its URL."""
    return dict(parse_qsl(urlsplit(request.url).query, strict_parsing=True))

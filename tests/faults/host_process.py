"""
A host in a process of its own: it hears webhooks, and asks for payments, one key each.

What is in doubt it asks for again under the same key. Every third payment it enqueues, in the
transaction in which it writes the invoice.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import psycopg
import sqlalchemy
import uvicorn
from sqlalchemy.exc import SQLAlchemyError
from typing_extensions import override

from railcore.context import PaymentContext
from railcore.errors import InProgressError, OutcomeUnknownError, StoreError
from railcore.money import SAR, Money
from railcore_adapters.cli import wiring
from railcore_adapters.cli.configuration import read_configuration
from railcore_adapters.credentials import EnvironmentCredentials
from railcore_adapters.mounts import WebhookAsgi
from tests.faults.fences import signed
from tests.faults.worker_nursery import Ground, hearing

TOLD_TO_STOP = 4
"""The status of a host that was told to stop before it had asked for everything."""

INVOICES = "create table invoice (name text primary key); grant insert, select on invoice to public"

_ODD = ("slow", "lose_answer", "503", "500_after", "garbage", "drop", "declined", "truncated")
_LANES = 8
_NEW_INVOICE = sqlalchemy.text("insert into invoice values (:name) on conflict do nothing")
_DOUBTS = (StoreError, InProgressError, OutcomeUnknownError, SQLAlchemyError, psycopg.Error)


def token(number: int) -> str:
    """Return how the payment of that number goes: one in twelve oddly, some much later."""
    if number % 12 == 5:
        return f"tok_{_ODD[number // 12 % len(_ODD)]}"
    return "tok_pending" if number % 20 == 7 else "tok_visa"


def order(number: int) -> PaymentContext:
    """Return what is asked for: always the same for one number."""
    return PaymentContext(
        tenant_id="acme",
        payment_id=f"pay-{number}",
        idempotency_key=f"pay-{number}",
        money=Money(1000 + number, SAR),
        payment_option_key="card",
        instrument_token=token(number),
    )


def is_enqueued(number: int) -> bool:
    return number % 3 == 0


async def host(ground: Ground, orders: Sequence[int], recovery_since: datetime | None) -> int:
    """Ask for *orders*, or hear webhooks only, until told to stop; return the exit status."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    owner = f"host-{os.getpid()}"
    wishes = wiring.Wishes(
        database_url=signed(ground.database_url, owner),
        configuration=read_configuration(Path(ground.routes)),
        credentials=EnvironmentCredentials(),
        stub_url=ground.stub_url,
        lease_s=ground.lease_s,
        first_check_s=0.2,
        at_once=16,
        owner=owner,
        webhooks=hearing(ground.lease_s),
        recovery_since=recovery_since,
        role=ground.role,
        relay_role=ground.relay_role,
    )
    async with wiring.open_host(wishes) as at:
        server = _Server(
            uvicorn.Config(
                WebhookAsgi(at.payments), lifespan="off", log_config=None, access_log=False
            )
        )
        serving = None
        if ground.listen is not None:
            listening = socket.socket(fileno=os.dup(ground.listen))
            serving = asyncio.create_task(server.serve(sockets=[listening]))
        waiting = list(reversed(orders))
        if orders:
            await asyncio.gather(*(_lane(at, waiting, stopping) for _ in range(_LANES)))
        else:
            await stopping.wait()
        server.should_exit = True
        if serving is not None:
            await serving
    return TOLD_TO_STOP if orders and stopping.is_set() else 0


async def _lane(at: wiring.Host, waiting: list[int], stopping: asyncio.Event) -> None:
    while waiting and not stopping.is_set():
        number = waiting.pop()
        while not stopping.is_set():
            try:
                await _ask(at, number)
                break
            except _DOUBTS:
                await asyncio.sleep(0.1)


async def _ask(at: wiring.Host, number: int) -> None:
    if not is_enqueued(number):
        await at.payments.execute(order(number))
        return
    async with at.database.begin() as connection:
        await connection.execute(_NEW_INVOICE, {"name": f"pay-{number}"})
        await at.payments.enqueue(order(number), connection=connection)


class _Server(uvicorn.Server):
    """Leaves signals to the host."""

    @contextmanager
    @override
    def capture_signals(self) -> Iterator[None]:
        yield

"""
The operations of the matrix: how each is prepared, carried out on the wire, and repeated.

What is prepared goes round the wire. What is repeated is what a host does after a crash: it asks
again with the same key; a provider sends its webhook again.
"""

import asyncio
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Final
from uuid import UUID

import attrs
import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError
from typing_extensions import override

from railcore.context import PaymentContext
from railcore.enums import ExecutionStatus, Operation
from railcore.errors import InProgressError, OutcomeUnknownError, StoreError
from railcore.events import BUCKETS, bucket_of
from railcore.execution import Account, PaymentExecution
from railcore.money import SAR, Money
from railcore.protocol import Due
from railcore.wallet import (
    TransferKind,
    WalletAccount,
    WalletAccountKind,
    WalletTransfer,
    transfer_id,
)
from tests.faults.wire.hosts import HOUSE, LEASE_S, Host
from tests.faults.wire.providers import Behaviour, News, Provider
from tests.faults.wire.proxy import Fault, Mode, Wire

PURSE: Final = "purse"
PURSE_MINOR: Final = 50_000

BUSY: Final = (InProgressError, StoreError, OutcomeUnknownError)
"""What a host that repeats a request waits for."""

ALL: Final = ("answers", "declines", "loses the answer", "says 500", "lags", "pending")
PLAIN: Final = ("plain, answers", "plain, loses the answer", "plain, lags")


@attrs.define(kw_only=True, eq=False, slots=False)
class Case:
    """
    One run of the matrix.

    Attributes:
        tenant: Whose, and nobody else's; also the name of its account at the provider.
        fault: What befalls it; None for a rehearsal.
        again: What befalls its recovery, in a pair.
        account: Whose credentials at whom; ``others`` those of its neighbours.
        token: The stored instrument that is charged.
        acts_on: The execution that it acts on, once that is prepared.
        news: Webhooks that wait for it.
        outcome: What its caller was told, as far as it lived to hear it.
        failure: Whether it was told that it failed.
        seen, seen_again: The messages of it, and of its recovery.
        struck, struck_again: The messages that were hit.
    """

    number: int
    tenant: str
    account: Account
    token: str
    others: Sequence[Account] = ()
    fault: Fault | None = None
    again: Fault | None = None
    acts_on: UUID | None = None
    news: list[News] = attrs.field(factory=list)
    outcome: str = ""
    failure: bool = False
    completed: bool = False
    seen: Sequence[str] = ()
    seen_again: Sequence[str] = ()
    struck: str | None = None
    struck_again: str | None = None

    @property
    def amount(self) -> Money:
        """What is moved: of every case another amount."""
        return Money(10_000 + self.number % 1000, SAR)

    @cached_property
    def payment_id(self) -> str:
        """The payment, in another bucket of the outbox than those of its neighbours."""
        names = (f"invoice-{count}" for count in itertools.count())
        wanted = self.number % BUCKETS
        return next(name for name in names if bucket_of(self.tenant, name) == wanted)

    def context(self, operation: Operation, key: str, **changes: Any) -> PaymentContext:
        """Return the request of this case."""
        wanted: dict[str, Any] = {
            "tenant_id": self.tenant,
            "payment_id": self.payment_id,
            "idempotency_key": key,
            "money": self.amount,
            "payment_option_key": "card",
            "operation": operation,
        }
        if operation.follows_a_parent:
            wanted["parent_execution_id"] = self.acts_on
        else:
            wanted["instrument_token"] = self.token
        return PaymentContext(**{**wanted, **changes})


@attrs.frozen(kw_only=True)
class Setting:
    """What an operation is prepared with: a host whose messages nobody touches."""

    host: Host
    provider: Provider
    behaviour: Behaviour


class Act(ABC):
    """
    One operation of the matrix.

    Attributes:
        name: For people.
        behaviours: Which of the provider it is run against.
        misbehaves_in: In which operation the provider behaves so.
    """

    name: ClassVar[str]
    behaviours: ClassVar[tuple[str, ...]] = ALL
    misbehaves_in: ClassVar[Operation | None] = None

    async def prepare(  # noqa: B027 - some begin from nothing
        self, case: Case, setting: Setting, wire: Wire, victim: Host
    ) -> None:
        """Bring about what it begins from."""

    @abstractmethod
    async def act(self, case: Case, host: Host) -> PaymentExecution | None:
        """Do it, on the wire."""

    async def repeat(self, case: Case, host: Host) -> None:  # noqa: B027 - some have no key
        """Do again what is done again after a crash."""


class Execute(Act):
    """One request of a host, with a key."""

    @abstractmethod
    def request(self, case: Case) -> PaymentContext:
        """Return it."""

    @override
    async def act(self, case: Case, host: Host) -> PaymentExecution | None:
        return await host.engine.execute(self.request(case))

    @override
    async def repeat(self, case: Case, host: Host) -> None:
        await patiently(lambda: host.engine.execute(self.request(case)))


class Charge(Execute):
    name = "charge"
    behaviours = (*ALL, *PLAIN)
    misbehaves_in = Operation.CHARGE

    @override
    def request(self, case: Case) -> PaymentContext:
        return case.context(Operation.CHARGE, "charge")


class Authorize(Execute):
    name = "authorize"
    misbehaves_in = Operation.AUTHORIZE

    @override
    def request(self, case: Case) -> PaymentContext:
        return case.context(Operation.AUTHORIZE, "authorize")


class _FollowUp(Execute):
    parent: ClassVar[Operation] = Operation.AUTHORIZE

    @override
    async def prepare(self, case: Case, setting: Setting, wire: Wire, victim: Host) -> None:
        engine = setting.host.engine
        for attempt in range(5):  # on a busy machine a call may come too late to be sent
            parent = await engine.execute(case.context(self.parent, f"parent-{attempt}"))
            while parent.is_open:
                await asyncio.sleep(0.2)
                parent = await engine.refresh(case.tenant, parent.execution_id)
            if parent.status is ExecutionStatus.COMPLETED:
                break
        case.acts_on = parent.execution_id

    @override
    def request(self, case: Case) -> PaymentContext:
        assert self.misbehaves_in is not None
        return case.context(self.misbehaves_in, self.name)


class Capture(_FollowUp):
    name = "capture"
    misbehaves_in = Operation.CAPTURE


class Void(_FollowUp):
    name = "void"
    misbehaves_in = Operation.VOID


class Refund(_FollowUp):
    name = "refund"
    misbehaves_in = Operation.REFUND
    parent = Operation.CHARGE


class Wallet(Execute):
    """A charge of a wallet: a hold, then the debit that resolves it."""

    name = "wallet"
    behaviours = ("answers", "declines")

    @override
    async def prepare(self, case: Case, setting: Setting, wire: Wire, victim: Host) -> None:
        wallet = setting.host.wallet
        accounts = {
            PURSE: WalletAccountKind.CUSTOMER,
            HOUSE: WalletAccountKind.HOUSE,
            "bank": WalletAccountKind.HOUSE,
        }
        for name, kind in accounts.items():
            await wallet.open_account(
                WalletAccount(tenant_id=case.tenant, account_id=name, currency=SAR, kind=kind)
            )
        has_enough = setting.behaviour.name == "answers"
        await wallet.transfer(
            WalletTransfer(
                transfer_id=transfer_id(case.tenant, "top-up"),
                tenant_id=case.tenant,
                debit_account="bank",
                credit_account=PURSE,
                amount=Money(PURSE_MINOR if has_enough else 1, SAR),
                kind=TransferKind.SINGLE,
            )
        )

    @override
    def request(self, case: Case) -> PaymentContext:
        return case.context(
            Operation.CHARGE,
            "wallet",
            payment_option_key="wallet",
            instrument_token=None,
            payer_token=PURSE,
        )


class HostsOwnError(Exception):
    """What the host's own statements raised, as they are allowed to."""


class LeakedError(Exception):
    """What railcore let through of another library's errors."""


INVOICE: Final = sqlalchemy.text(
    "insert into host_invoice (tenant_id) values (:tenant) on conflict do nothing"
)


class EnqueueAndSend(Act):
    """A host enqueues beside its own invoice, and a worker sends, both on one wire."""

    name = "enqueue and send"
    misbehaves_in = Operation.CHARGE

    @override
    async def act(self, case: Case, host: Host) -> PaymentExecution | None:
        await self._enqueue(case, host)
        return await take_up(case, host, is_unsent=True)

    @override
    async def repeat(self, case: Case, host: Host) -> None:
        await patiently(lambda: self._enqueue(case, host))

    async def _enqueue(self, case: Case, host: Host) -> None:
        request = case.context(Operation.CHARGE, "enqueued")
        try:
            async with host.database.begin() as connection:
                await connection.execute(INVOICE, {"tenant": case.tenant})
                try:
                    await host.engine.enqueue(request, connection=connection)
                except SQLAlchemyError as error:
                    raise LeakedError(type(error).__name__) from error
        except SQLAlchemyError as error:
            raise HostsOwnError(type(error).__name__) from error


class Check(Act):
    """A lost answer is looked up by whoever holds the lease."""

    name = "check"
    behaviours = (*ALL, "never arrived", *PLAIN)
    misbehaves_in = Operation.CHARGE

    @override
    async def prepare(self, case: Case, setting: Setting, wire: Wire, victim: Host) -> None:
        lost = "http> POST" if setting.behaviour.name == "never arrived" else "http< answer, first"
        wire.arm(Fault(Mode.RESET, name=lost))
        lost_one = await victim.engine.execute(case.context(Operation.CHARGE, "charge"))
        case.acts_on = lost_one.execution_id

    @override
    async def act(self, case: Case, host: Host) -> PaymentExecution | None:
        assert case.acts_on is not None
        return await host.engine.refresh(case.tenant, case.acts_on)


class Hear(Act):
    """A webhook settles a charge that was pending."""

    name = "webhook"
    behaviours = ("pending", "declines later", "refetched")
    misbehaves_in = Operation.CHARGE

    @override
    async def prepare(self, case: Case, setting: Setting, wire: Wire, victim: Host) -> None:
        request = case.context(Operation.CHARGE, "charge")
        await setting.host.engine.execute(request)
        setting.provider.settle(case.tenant, request.provider_key)
        case.news += setting.provider.take_news(case.tenant)
        assert case.news, "the provider tells of what it has settled"

    @override
    async def act(self, case: Case, host: Host) -> PaymentExecution | None:
        await deliver(host, case.news[0])
        return None

    @override
    async def repeat(self, case: Case, host: Host) -> None:
        for _ in range(2):
            await patiently(lambda: deliver(host, case.news[0]))


class RelayEvents(Act):
    """A relay delivers the events of a payment and acknowledges them."""

    name = "relay"
    behaviours = ("answers", "refuses once", "takes and breaks")

    @override
    async def prepare(self, case: Case, setting: Setting, wire: Wire, victim: Host) -> None:
        await setting.host.engine.execute(case.context(Operation.CHARGE, "charge"))

    @override
    async def act(self, case: Case, host: Host) -> PaymentExecution | None:
        await host.relay.run()
        return None


OPERATIONS: Final[Mapping[str, Act]] = {
    one.name: one
    for one in (
        Charge(),
        Authorize(),
        Capture(),
        Void(),
        Refund(),
        Wallet(),
        EnqueueAndSend(),
        Check(),
        Hear(),
        RelayEvents(),
    )
}


async def take_up(case: Case, host: Host, *, is_unsent: bool | None) -> PaymentExecution | None:
    """Do what a worker does with what is due of this case, and nothing of any other."""
    started_s = time.monotonic()
    due = Due(
        owner=host.engine.settings.owner,
        lease_s=LEASE_S,
        limit=1,
        is_unsent=is_unsent,
        most={**dict.fromkeys(case.others, 0), case.account: 1},
        most_each=0,
    )
    done = None
    for one in await host.engine.acquire_due(due):
        done = await host.engine.check(one, started_s)
    return done


async def recover(act: Act, case: Case, host: Host) -> PaymentExecution | None:
    """Do what a worker does with what there is of this case; else what the host does."""
    found = await host.engine.executions(case.tenant, case.payment_id)
    if any(one.execution_id != case.acts_on for one in found):
        return await take_up(case, host, is_unsent=None)
    return await act.act(case, host)


async def deliver(host: Host, news: News) -> None:
    """Hand a webhook to *host*, as a mount does."""
    await host.engine.handle_webhook(news.provider, news.headers, news.body, news.account)


async def patiently(ask: Callable[[], Any]) -> None:
    """Ask again for as long as the answer is that it is busy."""
    for _ in range(100):
        try:
            await ask()
        except (*BUSY, HostsOwnError):
            await asyncio.sleep(0.2)
        else:
            return
    await ask()

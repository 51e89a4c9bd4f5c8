"""
What the tables say about the payments of a file, read once and in one snapshot.

The accounting reads the rows themselves and not the store, so that it would notice a store that
reports what it did not write.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

import attrs
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from railcore.enums import ExecutionStatus, PaymentRail, PendingReason
from railcore.redaction import shown_reference, true_reference

_AT_ONCE: Final = 2000
Row = TypeVar("Row")
PaymentName = tuple[str, str]
"""Tenant and payment."""


@attrs.frozen(kw_only=True)
class ExecutionRow:
    """An execution, as far as accounting and reports look at it."""

    tenant_id: str
    execution_id: UUID
    payment_id: str
    operation: str
    amount_minor: int
    currency: str
    idempotency_key: str
    provider_key: str
    rail: PaymentRail = attrs.field(converter=PaymentRail)
    provider: str
    account: str
    status: ExecutionStatus = attrs.field(converter=ExecutionStatus)
    pending_reason: PendingReason | None = attrs.field(
        converter=attrs.converters.optional(PendingReason)
    )
    failure_code: str | None
    cause_code: str | None
    version: int
    provider_ref: str | None = attrs.field(
        converter=attrs.converters.optional(true_reference), repr=shown_reference
    )
    settled_minor: int | None
    next_check_at: datetime | None
    created_at: datetime

    @property
    def name(self) -> PaymentName:
        """Which payment it belongs to."""
        return self.tenant_id, self.payment_id

    @property
    def is_open(self) -> bool:
        """Whether its outcome may still change."""
        return not self.status.is_terminal

    @property
    def is_in_doubt(self) -> bool:
        """Whether money may have moved without a definite answer."""
        return (
            self.status is ExecutionStatus.PROCESSING
            or self.pending_reason is PendingReason.OUTCOME_UNKNOWN
        )


@attrs.frozen(kw_only=True)
class EventRow:
    """A line of the journal."""

    tenant_id: str
    payment_id: str
    seq: int
    execution_id: UUID
    version: int | None
    from_status: str
    to_status: str
    actor: str | None
    evidence: str | None

    @property
    def name(self) -> PaymentName:
        """Which payment it belongs to."""
        return self.tenant_id, self.payment_id


@attrs.frozen(kw_only=True)
class HeadRow:
    """The head of a payment: its sums."""

    tenant_id: str
    payment_id: str
    seq: int
    currency: str
    due_minor: int
    charging: int
    authorized: int
    capturing: int
    captured: int
    voiding: int
    voided: int
    refunding: int
    refunded: int

    @property
    def name(self) -> PaymentName:
        """Which payment it is."""
        return self.tenant_id, self.payment_id


@attrs.frozen(kw_only=True)
class WalletRow:
    """A wallet account: its own sums, and the same summed up from its transfers."""

    tenant_id: str
    account_id: str
    currency: str
    kind: str
    credits_posted: int
    debits_posted: int
    debits_pending: int
    credits: int
    debits: int
    held: int


@attrs.frozen(kw_only=True)
class TransferRow:
    """A wallet transfer that was made for an execution."""

    tenant_id: str
    reference: UUID
    kind: str
    amount_minor: int
    currency: str


@attrs.frozen(kw_only=True)
class Books:
    """Everything that the accounting looks at."""

    executions: Sequence[ExecutionRow]
    events: Sequence[EventRow]
    heads: Sequence[HeadRow]
    wallets: Sequence[WalletRow]
    transfers: Sequence[TransferRow]
    discrepancies: int
    read_at: datetime


_EXECUTIONS: Final = """
    select tenant_id, execution_id, payment_id, operation, amount_minor, currency, idempotency_key,
      provider_key, rail, provider, account, status, pending_reason, failure_code, cause_code,
      version, provider_ref, settled_minor, next_check_at, created_at
    from railcore_execution where tenant_id = :tenant and payment_id = any(:payments)
    order by created_at, execution_id"""
_EVENTS: Final = """
    select tenant_id, aggregateid as payment_id, seq, execution_id, version, from_status, to_status,
      payload ->> 'actor' as actor, payload ->> 'evidence' as evidence
    from railcore_event where tenant_id = :tenant and aggregateid = any(:payments)
    order by aggregateid, seq"""
_HEADS: Final = """
    select tenant_id, payment_id, seq, currency, due_minor, charging, authorized, capturing,
      captured, voiding, voided, refunding, refunded
    from railcore_payment where tenant_id = :tenant and payment_id = any(:payments)"""
_TRANSFERS: Final = """
    select r.tenant_id, r.reference, t.kind, t.amount_minor, t.currency
    from railcore_wallet_reference r
    join railcore_wallet_transfer t on t.tenant_id = r.tenant_id and t.transfer_id = r.transfer_id
    join railcore_execution e on e.tenant_id = r.tenant_id and e.execution_id = r.reference
    where r.tenant_id = :tenant and e.payment_id = any(:payments)"""
_DISCREPANCIES: Final = """
    select discrepancy_id from railcore_discrepancy
    where tenant_id = :tenant and payment_id = any(:payments)"""
_WALLETS: Final = """
    with moved as (
      select tenant_id, debit_account as account_id, currency, 0 as credit,
        case when kind in ('single', 'post') then amount_minor else 0 end as debit,
        case when kind = 'pending' and not exists (select from railcore_wallet_transfer r
          where r.tenant_id = t.tenant_id and r.pending_id = t.transfer_id)
          then amount_minor else 0 end as held
      from railcore_wallet_transfer t where tenant_id = any(:tenants)
      union all
      select tenant_id, credit_account, currency, amount_minor, 0, 0
      from railcore_wallet_transfer where tenant_id = any(:tenants) and kind in ('single', 'post')),
    sums as (
      select tenant_id, account_id, currency, sum(credit)::bigint as credits,
        sum(debit)::bigint as debits, sum(held)::bigint as held
      from moved group by tenant_id, account_id, currency)
    select a.tenant_id, a.account_id, a.currency, a.kind, a.credits_posted, a.debits_posted,
      a.debits_pending, coalesce(s.credits, 0) as credits, coalesce(s.debits, 0) as debits,
      coalesce(s.held, 0) as held
    from railcore_wallet_account a left join sums s using (tenant_id, account_id, currency)
    where a.tenant_id = any(:tenants)"""


async def read_books(database: AsyncEngine, payments: Iterable[PaymentName]) -> Books:
    """Return what the tables say about *payments*, and about the wallets of their tenants."""
    grouped: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for tenant_id, payment_id in payments:
        grouped[tenant_id][payment_id] = None
    async with database.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        reading = _Reading(connection, {tenant: list(names) for tenant, names in grouped.items()})
        books = Books(
            executions=await reading.rows(_EXECUTIONS, ExecutionRow),
            events=await reading.rows(_EVENTS, EventRow),
            heads=await reading.rows(_HEADS, HeadRow),
            wallets=await reading.whole(_WALLETS, WalletRow),
            transfers=await reading.rows(_TRANSFERS, TransferRow),
            discrepancies=len(await reading.rows(_DISCREPANCIES, dict)),
            read_at=(await connection.execute(text("select now()"))).scalar_one(),
        )
        await connection.rollback()
    return books


@attrs.frozen
class _Reading:
    connection: AsyncConnection
    payments: Mapping[str, Sequence[str]]

    async def rows(self, statement: str, kind: type[Row]) -> list[Row]:
        """Return the rows of *statement* for all payments, so many at once."""
        found = list[Row]()
        for tenant_id, names in self._portions():
            asked = {"tenant": tenant_id, "payments": names}
            found += await self._ask(statement, asked, kind)
        return found

    async def whole(self, statement: str, kind: type[Row]) -> list[Row]:
        """Return the rows of *statement* for all tenants."""
        return await self._ask(statement, {"tenants": list(self.payments)}, kind)

    def _portions(self) -> Iterator[tuple[str, Sequence[str]]]:
        for tenant_id, names in self.payments.items():
            for start in range(0, len(names), _AT_ONCE):
                yield tenant_id, names[start : start + _AT_ONCE]

    async def _ask(self, statement: str, asked: Mapping[str, Any], kind: type[Row]) -> list[Row]:
        answer = await self.connection.execute(text(statement), asked)
        return [kind(**row) for row in answer.mappings()]

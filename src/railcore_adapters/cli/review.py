"""``railcore review``: what people have to look at, and how they resolve it."""

from collections.abc import Mapping
from typing import Final
from uuid import UUID

import attrs
import sqlalchemy
from rich.console import Console
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from railcore.engine import AsyncPaymentEngine
from railcore.execution import PaymentExecution
from railcore.ports import OperatorDecision
from railcore.redaction import masked
from railcore.review import NotedDiscrepancy, Remedy, Review
from railcore.story import KIND_WORDS
from railcore_adapters.cli.desk import Desk, tenant_of
from railcore_adapters.embedded import open_database
from railcore_sqlalchemy.stores import SqlExecutionStore
from railcore_sqlalchemy.tables import discrepancy as discrepancies

_NOTHING: Final = "Nobody has to look at anything."


def find(database_url: str, tenant_id: str | None, limit: int, *, every: bool) -> Review:
    """Return what people have to look at; with *every*, what is resolved as well."""
    with open_database(database_url) as database:
        engine = sqlalchemy.create_engine(database.url, poolclass=sqlalchemy.NullPool)
        store = SqlExecutionStore(engine)
        return Review(
            discrepancies=store.list_discrepancies(tenant_id, limit, open_only=not every),
            waiting=store.waiting_for_review(tenant_id, limit),
        )


def show(console: Console, review: Review) -> None:
    """Print what people have to look at, as tables."""
    if not review.discrepancies and not review.waiting:
        console.print(_NOTHING)
    if review.discrepancies:
        table = Table("discrepancy", "tenant", "payment", "what", "says", "since", "resolution")
        table.title = "News that contradicts what is known"
        for noted in review.discrepancies:
            table.add_row(*map(str, _row(noted).values()))
        console.print(table)
    if review.waiting:
        table = Table("execution", "tenant", "payment", "amount", "provider", "since")
        table.title = "Payments that wait for a person to confirm or reject them"
        for execution in review.waiting:
            table.add_row(*map(str, _waiting_row(execution).values()))
        console.print(table)


def as_json(review: Review) -> dict[str, object]:
    """Return *review* for programs."""
    return {
        "discrepancies": [one_as_json(noted) for noted in review.discrepancies],
        "waiting": [_waiting_row(execution) for execution in review.waiting],
    }


def one_as_json(noted: NotedDiscrepancy) -> dict[str, object]:
    """Return one discrepancy for programs."""
    done = noted.resolved
    return {
        "discrepancy_id": str(noted.discrepancy_id),
        "tenant_id": noted.tenant_id,
        "payment_id": masked(noted.payment_id),
        "execution_id": None if noted.execution_id is None else str(noted.execution_id),
        "kind": noted.discrepancy.kind.value,
        "needs_review": noted.discrepancy.kind.needs_review,
        "sides": [masked(side) for side in noted.discrepancy.sides],
        "opened_at": noted.opened_at.isoformat(),
        "resolution": None if done is None else done.remedy.value,
        "resolved_by": None if done is None else done.actor,
        "evidence": None if done is None else done.evidence,
        "resolved_at": None if done is None else done.at.isoformat(),
        "resolving_execution_id": (
            None if done is None or done.execution_id is None else str(done.execution_id)
        ),
    }


@attrs.frozen(kw_only=True)
class Resolve:
    """What one person decides about one discrepancy."""

    desk: Desk
    discrepancy_id: UUID
    tenant_id: str | None
    remedy: Remedy
    decision: OperatorDecision

    async def carry_out(self) -> NotedDiscrepancy:
        """Resolve it, and return how it ended."""
        return await self.desk.work(self._resolve)

    async def _resolve(self, engine: AsyncPaymentEngine, database: AsyncEngine) -> NotedDiscrepancy:
        tenant_id = self.tenant_id or await tenant_of(
            database, discrepancies, "discrepancy_id", self.discrepancy_id
        )
        return await engine.resolve(tenant_id, self.discrepancy_id, self.remedy, self.decision)


def _row(noted: NotedDiscrepancy) -> Mapping[str, object]:
    done = noted.resolved
    return {
        "discrepancy": noted.discrepancy_id,
        "tenant": noted.tenant_id,
        "payment": masked(noted.payment_id),
        "what": KIND_WORDS[noted.discrepancy.kind],
        "says": "\n".join(masked(side) for side in noted.discrepancy.sides),
        "since": f"{noted.opened_at:%Y-%m-%d %H:%M}",
        "resolution": "" if done is None else f"{done.remedy} by {done.actor}",
    }


def _waiting_row(execution: PaymentExecution) -> dict[str, object]:
    return {
        "execution_id": str(execution.execution_id),
        "tenant_id": execution.tenant_id,
        "payment_id": masked(execution.payment_id),
        "amount": str(execution.money),
        "provider": f"{execution.provider}/{execution.account}",
        "since": "" if execution.created_at is None else execution.created_at.isoformat(),
    }

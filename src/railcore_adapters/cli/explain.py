"""``railcore explain``: the story of one payment."""

from uuid import UUID

import attrs
from sqlalchemy.ext.asyncio import AsyncEngine

from railcore.engine import AsyncPaymentEngine
from railcore.story import Story
from railcore_adapters.cli.desk import Desk, tenant_of
from railcore_sqlalchemy.tables import execution as executions


@attrs.frozen(kw_only=True)
class Explain:
    """Which execution to explain; None as the tenant finds out whose it is."""

    desk: Desk
    execution_id: UUID
    tenant_id: str | None

    async def carry_out(self) -> Story:
        """Return its story."""
        return await self.desk.work(self._explain)

    async def _explain(self, engine: AsyncPaymentEngine, database: AsyncEngine) -> Story:
        tenant_id = self.tenant_id or await tenant_of(
            database, executions, "execution_id", self.execution_id
        )
        return await engine.explain(tenant_id, self.execution_id)

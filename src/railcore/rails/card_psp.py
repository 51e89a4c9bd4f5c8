"""Cards through a payment service provider: one rail for every gateway."""

import attrs

from railcore.execution import PaymentExecution
from railcore.http import Exchange
from railcore.ports import CardGateway
from railcore.rails.exchanges import attempt, inquiry
from railcore.results import RailResult
from railcore.routing import RouteCapabilities


@attrs.frozen
class CardPspRail:
    """
    Charges cards at the provider that *gateway* speaks to.

    Run it with ``DrivenRail`` or ``AsyncDrivenRail``.

    Attributes:
        gateway: Knows the provider; what it does not catch is turned into a result here.
    """

    gateway: CardGateway

    @property
    def capabilities(self) -> RouteCapabilities:
        """What the gateway declares."""
        return self.gateway.capabilities

    def execute(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that starts the operation."""
        return attempt(self.gateway.start(execution))

    def advance(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that goes on after a customer action."""
        return attempt(self.gateway.advance(execution))

    def check_status(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that reads back what became of it."""
        return inquiry(self.gateway.look_up(execution))

"""Payment initiation at the payer's own bank: the payer authorizes there, the bank pays."""

import attrs

from railcore.execution import PaymentExecution
from railcore.http import Exchange
from railcore.ports import OpenBankingClient
from railcore.rails.exchanges import attempt, inquiry
from railcore.results import RailResult
from railcore.routing import RouteCapabilities


@attrs.frozen
class OpenBankingPaymentRail:
    """
    Initiates payments through *client*; ``customer_action`` until the payer has authorized.

    The payer's return proves nothing, so that ``advance`` asks the provider as ``check_status``
    does.

    Attributes:
        client: Knows the provider; what it does not catch is turned into a result here.
    """

    client: OpenBankingClient

    @property
    def capabilities(self) -> RouteCapabilities:
        """What the client declares."""
        return self.client.capabilities

    def execute(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that creates the payment order."""
        return attempt(self.client.initiate(execution))

    def advance(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that asks what the payer did."""
        return self.check_status(execution)

    def check_status(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that reads the order back."""
        return inquiry(self.client.look_up(execution))

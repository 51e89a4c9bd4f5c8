"""The flows of the sandbox's two providers. Everything that they read and write is in ``wire``."""

from typing import Final

import attrs

from railcore.enums import Idempotency, Lookup, Operation, SettlementMode
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.flow import answered
from railcore.http import Exchange
from railcore.results import RailResult
from railcore.routing import RouteCapabilities, TimingBounds
from railcore_adapters.stub import wire

SANDBOX_TIMING: Final = TimingBounds(
    send_deadline_s=0.5,
    latest_arrival_s=0.3,
    read_lag_s=0.1,
    key_window_s=None,
    answer_timeout_s=2.0,
)
"""Bounds that hold on loopback, so that doubt is over in less than a second."""


def _capabilities(timing: TimingBounds, settlement_mode: SettlementMode) -> RouteCapabilities:
    return RouteCapabilities(
        supports_async=True,
        settlement_mode=settlement_mode,
        idempotency=Idempotency.KEY,
        lookup=Lookup.BY_REFERENCE,
        lookup_is_authoritative=True,
        timing=timing,
    )


@attrs.frozen
class StubGateway:
    """
    The card gateway of the sandbox's fake PSP.

    The provider key is sent twice: as ``Idempotency-Key``, which makes a resend harmless, and as
    the reference, by which a lost answer is found again.

    Attributes:
        base_url: The sandbox's, without a slash at the end.
        timing: The bounds to declare.
    """

    base_url: str
    timing: TimingBounds = SANDBOX_TIMING

    @property
    def capabilities(self) -> RouteCapabilities:
        """All five operations in any currency, in parts and several times."""
        return attrs.evolve(
            _capabilities(self.timing, SettlementMode.INSTANT),
            operations=frozenset(Operation),
            partial_capture=True,
            multiple_capture=True,
            partial_refund=True,
            multiple_refund=True,
        )

    def start(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that charges or holds, or acts on what was charged or held."""
        needed = (
            execution.parent_ref
            if execution.operation.follows_a_parent
            else execution.context.instrument_token
        )
        if needed is None:
            return answered(RailResult.failed(PaymentFailureCode.INSTRUMENT_INVALID))
        return self._charge(execution)

    def advance(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that looks up: the sandbox's PSP asks nothing of the payer."""
        return self.look_up(execution)

    def look_up(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that reads the charge back by its reference."""
        response = yield wire.charge_lookup(self.base_url, execution, self.timing)
        return wire.read_charge_lookup(execution, response)

    def _charge(self, execution: PaymentExecution) -> Exchange[RailResult]:
        response = yield wire.charge_request(self.base_url, execution, self.timing)
        return wire.read_charge(execution, response)


@attrs.frozen
class StubBank:
    """
    The open-banking client of the sandbox's fake bank.

    Attributes:
        base_url: The sandbox's, without a slash at the end.
        timing: The bounds to declare.
    """

    base_url: str
    timing: TimingBounds = SANDBOX_TIMING

    @property
    def capabilities(self) -> RouteCapabilities:
        """Charges in any currency, settled some time after the payer has authorized."""
        return _capabilities(self.timing, SettlementMode.DEFERRED)

    def initiate(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that orders the payment; it needs a URL to send the payer back to."""
        if execution.context.return_url is None:
            return answered(RailResult.failed(PaymentFailureCode.CONFIGURATION_ERROR))
        return self._order(execution)

    def look_up(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that reads the payment back by its reference."""
        response = yield wire.payment_lookup(self.base_url, execution, self.timing)
        return wire.read_payment_lookup(execution, response)

    def _order(self, execution: PaymentExecution) -> Exchange[RailResult]:
        response = yield wire.payment_request(self.base_url, execution, self.timing)
        return wire.read_payment(execution, response)

"""HyperPay's flows. Everything that they read and write is in ``wire``."""

from collections.abc import Mapping
from urllib.parse import urlsplit

import attrs

from railcore.enums import Idempotency, Lookup, Operation, RouteMode, SettlementMode
from railcore.errors import InvalidValueError
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.flow import answered
from railcore.http import Exchange, HttpRequest
from railcore.results import RailResult
from railcore.routing import RouteCapabilities, TimingBounds
from railcore_adapters.hyperpay import wire
from railcore_adapters.hyperpay.settings import (
    HOSTS,
    HYPERPAY_TIMING,
    LIVE_URL,
    TEST_URL,
    HyperPayAccount,
)

__all__ = ["HYPERPAY_TIMING", "LIVE_URL", "TEST_URL", "HyperPayAccount", "HyperPayGateway"]


@attrs.frozen(kw_only=True)
class HyperPayGateway:
    """
    The card gateway of HyperPay.

    Without an ``instrument_token`` the payer pays in the provider's widget (COPYandPAY): the next
    action is what the host's page has to show. With one, a stored registration is charged from
    server to server. Card numbers never pass here.

    Nothing makes a repetition harmless at HyperPay, so a lost answer is only ever looked up, by our
    reference.

    Attributes:
        accounts: The entities, by the account of the route.
        base_url: The host: what is for play is not sent to the live one, nor the other way round.
        timing: The bounds to declare.
    """

    accounts: Mapping[str, HyperPayAccount] = attrs.field(hash=False)
    base_url: str = TEST_URL
    timing: TimingBounds = HYPERPAY_TIMING

    @property
    def capabilities(self) -> RouteCapabilities:
        """All five operations, in parts and several times; a route narrows them."""
        return RouteCapabilities(
            operations=frozenset(Operation),
            supports_async=True,
            settlement_mode=SettlementMode.INSTANT,
            partial_capture=True,
            multiple_capture=True,
            partial_refund=True,
            multiple_refund=True,
            idempotency=Idempotency.NONE,
            lookup=Lookup.BY_REFERENCE,
            lookup_is_authoritative=True,
            most_decimals=max((one.decimals for one in self.accounts.values()), default=2),
            timing=self.timing,
        )

    def start(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that prepares a checkout, charges what is stored, or acts on a parent."""
        account = self.accounts.get(execution.account)
        if account is None or not self._is_for(execution.mode):
            return answered(RailResult.failed(PaymentFailureCode.CONFIGURATION_ERROR))
        if not account.can(execution.operation):
            return answered(RailResult.failed(PaymentFailureCode.UNSUPPORTED_OPERATION))
        return self._start(execution, self._wire(execution, account))

    def advance(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that reads the status of a checkout whose payer is back."""
        if not wire.is_checkout(execution.provider_ref):
            return self.look_up(execution)
        return self._returned(execution)

    def look_up(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        """Return the flow that reads what stands under our reference."""
        account = self.accounts.get(execution.account)
        if account is None:
            return answered(RailResult.unknown(PaymentFailureCode.INTERNAL_ERROR))
        return self._query(self._wire(execution, account))

    def _is_for(self, mode: RouteMode) -> bool:
        return HOSTS.get(urlsplit(self.base_url).hostname or "", mode) is mode

    def _wire(self, execution: PaymentExecution, account: HyperPayAccount) -> wire.Wire:
        return wire.Wire(self.base_url, execution, account, self.timing)

    def _start(self, execution: PaymentExecution, speaks: wire.Wire) -> Exchange[RailResult]:
        is_checkout = False
        try:
            if execution.operation.follows_a_parent:
                request = speaks.follow_up()
            elif execution.context.instrument_token is not None:
                request = speaks.registered()
            elif execution.context.return_url is None:
                return answered(RailResult.failed(PaymentFailureCode.CONFIGURATION_ERROR))
            else:
                request, is_checkout = speaks.checkout(), True
        except InvalidValueError:  # an amount that the entity's decimals cannot express
            return answered(RailResult.failed(PaymentFailureCode.UNSUPPORTED_OPERATION))
        if request is None:
            return answered(RailResult.failed(PaymentFailureCode.INSTRUMENT_INVALID))
        return self._send(speaks, request, is_checkout=is_checkout)

    def _send(
        self, speaks: wire.Wire, request: HttpRequest, *, is_checkout: bool
    ) -> Exchange[RailResult]:
        response = yield request
        return speaks.read_checkout(response) if is_checkout else speaks.read_answer(response)

    def _query(self, speaks: wire.Wire) -> Exchange[RailResult]:
        response = yield speaks.query()
        return speaks.read_query(response)

    def _returned(self, execution: PaymentExecution) -> Exchange[RailResult]:
        account = self.accounts.get(execution.account)
        if account is None:
            return RailResult.unknown(PaymentFailureCode.INTERNAL_ERROR)
        speaks = self._wire(execution, account)
        response = yield speaks.returned()
        return speaks.read_returned(response)

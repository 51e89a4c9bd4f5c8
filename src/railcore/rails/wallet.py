"""
The wallet as a rail: reserve, then debit.

A charge is two transfers, a hold and the debit that resolves it, so that whoever repeats it after a
crash goes on where it stopped: both ids are derived from the execution's provider key. Captures,
voids and refunds find what they act on by the execution that it was done for. The lookup is
authoritative and has no lag: what it does not find has not happened.
"""

from collections.abc import Generator, Mapping
from types import MappingProxyType
from typing import Final, TypeVar

import attrs

from railcore import _checks
from railcore.enums import Idempotency, Lookup, Operation
from railcore.errors import InProgressError, InvalidValueError, StoreError, TransportError
from railcore.execution import PaymentExecution
from railcore.failures import DefiniteFailureCode, PaymentFailureCode
from railcore.results import RailResult
from railcore.routing import RouteCapabilities, TimingBounds
from railcore.wallet import (
    FindReferenced,
    FindTransfer,
    PostTransfer,
    TransferKind,
    TransferOutcome,
    TransferVerdict,
    WalletAsk,
    WalletTransfer,
    release_of,
    transfer_id,
)

Result = TypeVar("Result")
Flow = Generator[WalletAsk, TransferOutcome, Result]
"""A conversation with a wallet."""

CAPABILITIES: Final = RouteCapabilities(
    operations=frozenset(Operation),
    partial_capture=True,
    partial_refund=True,
    multiple_refund=True,
    idempotency=Idempotency.KEY,
    lookup=Lookup.BY_KEY,
    lookup_is_authoritative=True,
    timing=TimingBounds(send_deadline_s=5.0, latest_arrival_s=30.0, read_lag_s=0.0),
)
"""What the wallet can do. ``latest_arrival_s`` is above the statement timeout of its roles."""

_REFUSALS: Final[Mapping[TransferVerdict, DefiniteFailureCode]] = MappingProxyType(
    {
        TransferVerdict.INSUFFICIENT_FUNDS: PaymentFailureCode.INSUFFICIENT_FUNDS,
        TransferVerdict.HOLD_EXPIRED: PaymentFailureCode.CANCELLED,
        TransferVerdict.HOLD_RESOLVED: PaymentFailureCode.CANCELLED,
        TransferVerdict.AMOUNT_EXCEEDS_HOLD: PaymentFailureCode.UNSUPPORTED_OPERATION,
        TransferVerdict.HOLD_NOT_FOUND: PaymentFailureCode.CONFIGURATION_ERROR,
        TransferVerdict.HOLD_MISMATCH: PaymentFailureCode.CONFIGURATION_ERROR,
    }
)
_BROKEN: Final = (StoreError, InProgressError, TransportError)
_LOST: Final = RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)


@attrs.frozen(kw_only=True)
class WalletRail:
    """
    Flows that ask a ``WalletRepository``; give its ``answer`` to ``DrivenRail``.

    The customer's account is the context's payer token, the house account is the route's account. A
    refund goes back to the account that paid.

    Attributes:
        hold_s: For how long an authorization reserves.
        charge_hold_s: For how long a charge that was interrupted between reserving and debiting
            keeps its reservation. Until then it is resumed; after that it fails as cancelled.
        timing: The bounds to declare.
    """

    hold_s: float = attrs.field(default=7 * 86_400.0, validator=_checks.seconds)
    charge_hold_s: float = attrs.field(default=86_400.0, validator=_checks.seconds)
    timing: TimingBounds = CAPABILITIES.timing

    @property
    def capabilities(self) -> RouteCapabilities:
        """All five operations, repeated harmlessly and looked up with authority."""
        return attrs.evolve(CAPABILITIES, timing=self.timing)

    def execute(self, execution: PaymentExecution, /) -> Flow[RailResult]:
        """Return the flow that does it; repeated, it goes on where it stopped."""
        try:
            return (yield from self._do(execution))
        except InvalidValueError as error:
            return RailResult.failed(_unfit(error))
        except _BROKEN as error:
            return _unanswered(error)

    def advance(self, execution: PaymentExecution, /) -> Flow[RailResult]:
        """Return the flow that asks what became of it: nobody has to act on a wallet payment."""
        return self.check_status(execution)

    def check_status(self, execution: PaymentExecution, /) -> Flow[RailResult]:
        """Return the flow that looks for the transfer that decides; it only reads."""
        try:
            return (yield from self._look(execution))
        except InvalidValueError as error:
            return RailResult.failed(_unfit(error))
        except _BROKEN:
            return _LOST

    def _do(self, execution: PaymentExecution) -> Flow[RailResult]:
        match execution.operation:
            case Operation.CHARGE:
                return (yield from self._charge(execution))
            case Operation.AUTHORIZE:
                return (yield from _put(_hold(execution, self.hold_s)))
            case Operation.VOID:
                return (yield from _void(execution))
            case Operation.CAPTURE | Operation.REFUND:
                wanted = yield from _follow_up(execution)
                return wanted if isinstance(wanted, RailResult) else (yield from _put(wanted))

    def _charge(self, execution: PaymentExecution) -> Flow[RailResult]:
        hold = _hold(execution, self.charge_hold_s)
        held = yield PostTransfer(hold)
        if not held.verdict.stands:
            return _refusal(hold, held)
        try:
            return (yield from _put(_debit(execution, hold)))
        except _BROKEN:
            return _LOST  # the reservation stands, and the same execution goes on from there

    def _look(self, execution: PaymentExecution) -> Flow[RailResult]:
        match execution.operation:
            case Operation.CHARGE:
                hold = _hold(execution, self.charge_hold_s)
                found = yield from _seen(_debit(execution, hold))
                return (yield from _never_debited(hold)) if found.is_absent else found
            case Operation.AUTHORIZE:
                return (yield from _seen(_hold(execution, self.hold_s)))
            case Operation.VOID:
                parent = yield _parent_of(execution)
                return _released(execution, parent) or RailResult.absent()
            case Operation.CAPTURE | Operation.REFUND:
                wanted = yield from _follow_up(execution)
                return wanted if isinstance(wanted, RailResult) else (yield from _seen(wanted))


def _hold(execution: PaymentExecution, hold_s: float) -> WalletTransfer:
    if execution.context.payer_token is None:
        raise InvalidValueError("payer_token", "the customer's wallet account", "None")
    return WalletTransfer(
        transfer_id=transfer_id(execution.provider_key, "hold"),
        tenant_id=execution.tenant_id,
        debit_account=execution.context.payer_token,
        credit_account=execution.account,
        amount=execution.money,
        kind=TransferKind.PENDING,
        hold_s=hold_s,
        reference=execution.execution_id,
    )


def _debit(execution: PaymentExecution, hold: WalletTransfer) -> WalletTransfer:
    return attrs.evolve(
        hold,
        transfer_id=transfer_id(execution.provider_key, "debit"),
        amount=execution.money,
        kind=TransferKind.POST,
        pending_id=hold.transfer_id,
        hold_s=None,
        reference=execution.execution_id,
    )


def _back(execution: PaymentExecution, paid: WalletTransfer) -> WalletTransfer:
    return attrs.evolve(
        paid,
        transfer_id=transfer_id(execution.provider_key, "refund"),
        debit_account=paid.credit_account,
        credit_account=paid.debit_account,
        amount=execution.money,
        kind=TransferKind.SINGLE,
        pending_id=None,
        hold_s=None,
        reference=execution.execution_id,
    )


def _parent_of(execution: PaymentExecution) -> FindReferenced:
    parent = execution.context.parent_execution_id
    if parent is None:
        raise InvalidValueError("parent_execution_id", "the execution it acts on", "None")
    return FindReferenced(execution.tenant_id, parent)


def _follow_up(execution: PaymentExecution) -> Flow[WalletTransfer | RailResult]:
    parent = (yield _parent_of(execution)).transfer
    if parent is None:
        return RailResult.failed(PaymentFailureCode.CONFIGURATION_ERROR)
    if execution.operation is Operation.REFUND:
        if execution.context.payer_token not in {None, parent.debit_account}:
            return RailResult.failed(PaymentFailureCode.INSTRUMENT_INVALID)
        return _back(execution, parent)
    if parent.kind is not TransferKind.PENDING:
        return RailResult.failed(PaymentFailureCode.UNSUPPORTED_OPERATION)
    return _debit(execution, parent)


def _void(execution: PaymentExecution) -> Flow[RailResult]:
    parent = yield _parent_of(execution)
    released = _released(execution, parent)
    if released is not None or parent.transfer is None:
        return released or RailResult.failed(PaymentFailureCode.CONFIGURATION_ERROR)
    if parent.transfer.amount != execution.money:  # a hold is released whole
        return RailResult.failed(PaymentFailureCode.UNSUPPORTED_OPERATION)
    release = release_of(parent.transfer, execution.provider_key, "release")
    outcome = yield PostTransfer(release)
    if outcome.verdict is TransferVerdict.HOLD_RESOLVED:
        return _released(execution, (yield _parent_of(execution))) or _LOST
    return _answer(release, outcome)


def _released(execution: PaymentExecution, parent: TransferOutcome) -> RailResult | None:
    """Return what a void comes to, once its hold is resolved by whomever; None while it is open."""
    if parent.transfer is None or parent.resolution is None:
        return None
    free = parent.transfer.amount
    if parent.resolution.kind is TransferKind.POST:
        free -= parent.resolution.amount
    if execution.money <= free:
        return RailResult.success(str(parent.resolution.transfer_id), execution.money)
    return RailResult.failed(PaymentFailureCode.DECLINED)


def _put(wanted: WalletTransfer) -> Flow[RailResult]:
    return _answer(wanted, (yield PostTransfer(wanted)))


def _answer(wanted: WalletTransfer, outcome: TransferOutcome) -> RailResult:
    if outcome.verdict.stands:
        return RailResult.success(str(wanted.transfer_id), wanted.amount)
    return _refusal(wanted, outcome)


def _refusal(wanted: WalletTransfer, outcome: TransferOutcome) -> RailResult:
    match outcome.verdict:
        case TransferVerdict.NO_ACCOUNT | TransferVerdict.WRONG_CURRENCY:
            refund = wanted.kind is TransferKind.SINGLE
            house = wanted.debit_account if refund else wanted.credit_account
            if outcome.account_id == house:
                return RailResult.failed(PaymentFailureCode.CONFIGURATION_ERROR)
            return RailResult.failed(PaymentFailureCode.INSTRUMENT_INVALID)
        case verdict if verdict in _REFUSALS:
            return RailResult.failed(_REFUSALS[verdict])
        case _:  # something else stands under this id
            return _unreadable(wanted)


def _seen(wanted: WalletTransfer) -> Flow[RailResult]:
    found = (yield FindTransfer(wanted.tenant_id, wanted.transfer_id)).transfer
    if found is None:
        return RailResult.absent()
    if found == attrs.evolve(wanted, amount=found.amount):
        return RailResult.success(str(found.transfer_id), found.amount)
    return _unreadable(wanted)


def _never_debited(hold: WalletTransfer) -> Flow[RailResult]:
    """Return the end of a charge whose hold was released, after which it can never be debited."""
    found = yield FindTransfer(hold.tenant_id, hold.transfer_id)
    if found.resolution is not None and found.resolution.kind is TransferKind.VOID:
        return RailResult.failed(PaymentFailureCode.CANCELLED)
    return RailResult.absent()


def _unreadable(wanted: WalletTransfer) -> RailResult:
    reference = str(wanted.transfer_id)
    return RailResult.unknown(PaymentFailureCode.INVALID_RESPONSE, provider_ref=reference)


def _unfit(error: InvalidValueError) -> DefiniteFailureCode:
    if error.field == "amount":
        return PaymentFailureCode.UNSUPPORTED_OPERATION
    return PaymentFailureCode.INSTRUMENT_INVALID


def _unanswered(error: StoreError | InProgressError | TransportError) -> RailResult:
    match error:
        case InProgressError():
            return RailResult.failed(PaymentFailureCode.PROVIDER_UNAVAILABLE)
        case StoreError(may_have_committed=True) | TransportError(may_have_left=True):
            return _LOST
        case _:
            return RailResult.failed(PaymentFailureCode.NETWORK_ERROR)

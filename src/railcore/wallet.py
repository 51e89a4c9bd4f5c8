"""
The wallet's values: accounts, transfers between two of them, and what became of a transfer.

A transfer moves one amount from one account to another, so that the books balance by construction.
Money is reserved by a ``pending`` transfer, the *hold*, which is resolved exactly once: by a
``post`` that moves all or part of it, or by a ``void``. Transfers never change, and their ids are
derived from what asked for them: the same transfer again is ``known`` and moves nothing.

A customer's account can never be overdrawn. A house account is the other side of the world: it has
no limit and keeps no running balance, because every payment would wait for that one row.
"""

from enum import StrEnum
from typing import Any, Final
from uuid import UUID, uuid5

import attrs

from railcore import _checks
from railcore.errors import InvalidValueError, MisconfiguredError
from railcore.money import Currency, Money

_NAMESPACE: Final = UUID("0b7f6d0c-3f0e-5a52-8d0b-5a7c9f1e2d34")
LONGEST_HOLD_S: Final = 366 * 86_400.0
"""For how long a hold may reserve money: one year."""


class WalletAccountKind(StrEnum):
    """Whose account it is."""

    CUSTOMER = "customer"
    HOUSE = "house"


class TransferKind(StrEnum):
    """What a transfer does: move at once, reserve, move what is reserved, or release it."""

    SINGLE = "single"
    PENDING = "pending"
    POST = "post"
    VOID = "void"

    @property
    def resolves_a_hold(self) -> bool:
        """Whether the transfer ends an earlier ``pending`` one."""
        return self is TransferKind.POST or self is TransferKind.VOID

    @property
    def moves(self) -> bool:
        """Whether the transfer puts money into the credited account."""
        return self is TransferKind.SINGLE or self is TransferKind.POST


class TransferVerdict(StrEnum):
    """What became of a transfer; everything but ``applied`` changed nothing."""

    APPLIED = "applied"
    KNOWN = "known"
    ABSENT = "absent"
    DIFFERS = "differs"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    NO_ACCOUNT = "no_account"
    WRONG_CURRENCY = "wrong_currency"
    HOLD_NOT_FOUND = "hold_not_found"
    HOLD_MISMATCH = "hold_mismatch"
    HOLD_RESOLVED = "hold_resolved"
    HOLD_EXPIRED = "hold_expired"
    AMOUNT_EXCEEDS_HOLD = "amount_exceeds_hold"

    @property
    def stands(self) -> bool:
        """Whether the transfer is in the books now."""
        return self is TransferVerdict.APPLIED or self is TransferVerdict.KNOWN


def _is_iso(_: Any, attribute: Any, value: Any) -> None:
    currency = value.currency if isinstance(value, Money) else value
    if not isinstance(currency, Currency):
        raise InvalidValueError(attribute.name, "money in a currency", _checks.shape(value))
    if Currency.of(currency.code) != currency:
        wanted = "a currency with the decimal places of ISO 4217"
        raise InvalidValueError(attribute.name, wanted, f"{currency.exponent} places of {currency}")


@attrs.frozen(kw_only=True)
class WalletAccount:
    """
    An account in one currency; the same name may be open in several.

    Attributes:
        tenant_id: Whose wallet; 1 to 64 visible ASCII characters.
        account_id: 1 to 255 visible ASCII characters; the payer token or the account of the route.
        currency: By ISO 4217.
        kind: A customer's, never overdrawn, or a house account.
    """

    tenant_id: str = attrs.field(validator=_checks.text(64))
    account_id: str = attrs.field(validator=_checks.text(255))
    currency: Currency = attrs.field(validator=_is_iso)
    kind: WalletAccountKind = attrs.field(
        default=WalletAccountKind.CUSTOMER, validator=_checks.one_of(WalletAccountKind)
    )


@attrs.frozen(kw_only=True)
class WalletTransfer:
    """
    One transfer between two accounts of a tenant.

    Two transfers are equal when they move the same; ``hold_s`` and ``reference`` do not count.

    Attributes:
        transfer_id: Derived from what asked for it, with ``transfer_id``.
        debit_account: Where the money comes from.
        credit_account: Where it goes; another one.
        amount: Above zero. A ``post`` may move less than is held, which releases the rest; a
            ``void`` names all that is held.
        kind: What it does.
        pending_id: The hold that a ``post`` or ``void`` resolves; forbidden otherwise.
        hold_s: For how long a ``pending`` transfer reserves, at most a year; forbidden otherwise.
        reference: The execution that this is done for, by which it can be found again.
    """

    transfer_id: UUID = attrs.field(validator=_checks.one_of(UUID))
    tenant_id: str = attrs.field(validator=_checks.text(64))
    debit_account: str = attrs.field(validator=_checks.text(255))
    credit_account: str = attrs.field(validator=_checks.text(255))
    amount: Money = attrs.field(validator=[_checks.one_of(Money), _is_iso])
    kind: TransferKind = attrs.field(
        default=TransferKind.SINGLE, validator=_checks.one_of(TransferKind)
    )
    pending_id: UUID | None = attrs.field(
        default=None, validator=_checks.one_of(UUID, optional=True)
    )
    hold_s: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(_checks.seconds), eq=False
    )
    reference: UUID | None = attrs.field(
        default=None, validator=_checks.one_of(UUID, optional=True), eq=False
    )

    def __attrs_post_init__(self) -> None:
        if self.amount.amount_minor <= 0:
            raise InvalidValueError("amount", "an amount above zero", str(self.amount))
        if self.debit_account == self.credit_account:
            raise InvalidValueError("credit_account", "another account", "the one that is debited")
        if self.kind.resolves_a_hold is (self.pending_id is None):
            wanted = "the hold of a post or void, and nothing else's"
            raise InvalidValueError("pending_id", wanted, f"{self.pending_id} for a {self.kind}")
        self._check_hold()

    def _check_hold(self) -> None:
        if (self.kind is TransferKind.PENDING) is (self.hold_s is None):
            wanted = "seconds for a pending transfer, and None otherwise"
            raise InvalidValueError("hold_s", wanted, f"{self.hold_s} for a {self.kind}")
        if self.hold_s is not None and not 0 < self.hold_s <= LONGEST_HOLD_S:
            raise InvalidValueError("hold_s", "above zero and at most a year", f"{self.hold_s:g} s")


@attrs.frozen(kw_only=True)
class TransferOutcome:
    """
    What became of a transfer, or what a lookup found.

    Attributes:
        verdict: ``absent`` is for lookups only; a found transfer is ``known``.
        transfer: As it stands in the books; None when it does not, or when another has its id.
        resolution: The transfer that resolved the hold that a lookup found.
        account_id: Which account is missing or in another currency.
    """

    verdict: TransferVerdict
    transfer: WalletTransfer | None = None
    resolution: WalletTransfer | None = None
    account_id: str | None = None


@attrs.frozen(kw_only=True)
class WalletBalance:
    """
    What an account has, in minor units.

    Attributes:
        posted: Received less spent; below zero for a house account that paid out more.
        held: Reserved by holds that nobody resolved yet.
    """

    posted: int
    held: int = attrs.field(default=0, validator=_checks.whole_number(0))

    @property
    def available(self) -> int:
        """What can be spent or reserved."""
        return self.posted - self.held


@attrs.frozen
class PostTransfer:
    """Asks for a transfer to be put into the books, once."""

    transfer: WalletTransfer


@attrs.frozen
class FindTransfer:
    """Asks for a transfer by its id."""

    tenant_id: str
    transfer_id: UUID


@attrs.frozen
class FindReferenced:
    """Asks for the transfer of an execution; of several for the one that came first, the hold."""

    tenant_id: str
    reference: UUID


WalletAsk = PostTransfer | FindTransfer | FindReferenced
"""What flows ask a wallet for; the reply is always a ``TransferOutcome``."""


def transfer_id(key: str, step: str) -> UUID:
    """
    Return the id of one step of what *key* asks for.

    It depends on nothing that a database could lose, so that repeating asks for the same transfer.

    Args:
        key: The provider key of an execution, or the id of a hold.
        step: What is done: ``hold``, ``debit`` and the like.
    """
    return uuid5(_NAMESPACE, f"{key}/{step}")


def release_of(hold: WalletTransfer, key: str, step: str) -> WalletTransfer:
    """Return the transfer that releases all of *hold*, in the name of *key* and *step*."""
    return attrs.evolve(
        hold,
        transfer_id=transfer_id(key, step),
        kind=TransferKind.VOID,
        pending_id=hold.transfer_id,
        hold_s=None,
        reference=None,
    )


def expiry_of(hold: WalletTransfer) -> WalletTransfer:
    """Return the transfer that releases *hold* because its time is over: the same whoever asks."""
    return release_of(hold, str(hold.transfer_id), "expire")


def other_kind(account: WalletAccount) -> MisconfiguredError:
    """Return what is raised for opening *account* when it is open as one of another kind."""
    place = f"wallet account {account.account_id!r} in {account.currency}"
    problem = f"wanted a {account.kind} account, found one of the other kind"
    return MisconfiguredError(place, problem, "Open it under another name")

"""What the host asks for, checked on construction, and the two keys derived from it."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Final
from uuid import UUID

import attrs

from railcore import _checks
from railcore.enums import Operation
from railcore.errors import InvalidValueError
from railcore.money import Money
from railcore.redaction import masked

_FINGERPRINT_VERSION: Final = 1


def _without_cards(metadata: Mapping[str, str]) -> Mapping[str, str]:
    try:
        return {masked(name): masked(value) for name, value in metadata.items()}
    except (AttributeError, TypeError):
        return metadata  # the validator says what is wrong with it


@attrs.frozen(kw_only=True, slots=False)
class PaymentContext:
    """
    One request of the host to move money.

    Attributes:
        tenant_id: Whose money; 1 to 64 visible ASCII characters.
        payment_id: The host's own name of the debt (invoice, order); 1 to 128 visible ASCII
            characters.
        idempotency_key: Unique per tenant, whatever the operation, for ever; 1 to 255 visible ASCII
            characters.
        money: How much, above zero.
        payment_option_key: What the payer chose, for instance ``card.mada``; routes are found by
            it.
        operation: Charge unless said otherwise.
        parent_execution_id: The execution that a capture, void or refund acts on; forbidden
            otherwise.
        due: The whole debt, when this is one of several payments towards it. Default: ``money``,
            frozen by the first charge.
        payer_token: Opaque reference to the payer at the provider or, for the wallet, the account.
        instrument_token: Opaque reference to a stored instrument. Card numbers are refused.
        contract_id: For routing by contract terms.
        return_url: Where the payer comes back to after a customer action.
        correlation_id: Carried through to observers and events.
        metadata: At most 40 texts of the host's own; card numbers are masked; never sent to a
            provider, never part of the fingerprint.
        merchant_initiated: The payer is not present and agreed beforehand.
    """

    tenant_id: str = attrs.field(validator=_checks.text(64))
    payment_id: str = attrs.field(validator=_checks.text(128))
    idempotency_key: str = attrs.field(validator=_checks.text(255))
    money: Money = attrs.field(validator=_checks.one_of(Money))
    payment_option_key: str = attrs.field(validator=_checks.text(64))
    operation: Operation = attrs.field(
        default=Operation.CHARGE, validator=_checks.one_of(Operation)
    )
    parent_execution_id: UUID | None = attrs.field(
        default=None, validator=_checks.one_of(UUID, optional=True)
    )
    due: Money | None = attrs.field(default=None, validator=_checks.one_of(Money, optional=True))
    payer_token: str | None = attrs.field(default=None, validator=_checks.token(255))
    instrument_token: str | None = attrs.field(default=None, validator=_checks.token(255))
    contract_id: str | None = attrs.field(default=None, validator=_checks.text(128, optional=True))
    return_url: str | None = attrs.field(default=None, validator=_checks.text(2048, optional=True))
    correlation_id: str | None = attrs.field(
        default=None, validator=_checks.text(128, optional=True)
    )
    metadata: Mapping[str, str] = attrs.field(
        factory=dict, converter=_without_cards, validator=_checks.texts(40, 4096), hash=False
    )
    merchant_initiated: bool = attrs.field(default=False, validator=_checks.one_of(bool))

    def __attrs_post_init__(self) -> None:
        if self.money.amount_minor <= 0:
            raise InvalidValueError("money", "an amount above zero", str(self.money))
        if self.operation.follows_a_parent is (self.parent_execution_id is None):
            wanted = "the execution it acts on" if self.operation.follows_a_parent else "None"
            found = "None" if self.parent_execution_id is None else "an execution"
            raise InvalidValueError(
                "parent_execution_id", f"{wanted} for a {self.operation}", found
            )
        self._check_due()

    def _check_due(self) -> None:
        if self.due is None:
            return
        if self.operation.follows_a_parent:
            raise InvalidValueError("due", f"None for a {self.operation}", str(self.due))
        if self.due.currency != self.money.currency or self.due < self.money:
            raise InvalidValueError(
                "due", f"at least {self.money} in the same currency", str(self.due)
            )

    @property
    def due_minor(self) -> int:
        """The whole debt in minor units."""
        return (self.due or self.money).amount_minor

    @property
    def moves(self) -> Mapping[str, object]:
        """
        All that decides which money moves.

        Two requests under one key must agree on every entry.
        """
        return {
            "version": _FINGERPRINT_VERSION,
            "operation": self.operation,
            "amount_minor": self.money.amount_minor,
            "currency": self.money.currency.code,
            "exponent": self.money.currency.exponent,
            "due_minor": self.due_minor,
            "payment_id": self.payment_id,
            "payment_option_key": self.payment_option_key,
            "parent_execution_id": self.parent_execution_id,
            "payer_token": self.payer_token,
            "instrument_token": self.instrument_token,
            "contract_id": self.contract_id,
            "merchant_initiated": self.merchant_initiated,
        }

    @cached_property
    def fingerprint(self) -> bytes:
        """
        Thirty-two bytes over what moves money.

        Not the route, metadata, correlation id or return URL. ``moves`` in its order, blanks
        between: none of its texts is empty or has a blank.
        """
        told = ("" if one is None else str(one) for one in self.moves.values())
        return hashlib.sha256(" ".join(told).encode()).digest()

    @cached_property
    def provider_key(self) -> str:
        """The key of this request at the provider, the same for every retry."""
        return derive_provider_key(self.tenant_id, self.operation, self.idempotency_key)

    def differences(self, other: "PaymentContext") -> tuple[str, ...]:
        """Return the names of what moves money and differs from *other*."""
        mine, theirs = self.moves, other.moves
        return tuple(name for name in mine if mine[name] != theirs[name])


def derive_provider_key(
    tenant_id: str, operation: Operation, idempotency_key: str, step: str = ""
) -> str:
    """
    Return the 32 hexadecimal characters that name a request at the provider.

    It depends on nothing that the database could lose, so that a retry after a lost commit carries
    the same key.

    Args:
        tenant_id: Whose money.
        operation: What is done.
        idempotency_key: The host's key.
        step: Empty for the only or first request of an execution; the step's name for a further
            one.
    """
    text = f"{tenant_id} {operation} {idempotency_key} {step}"
    return hashlib.blake2b(text.encode(), digest_size=16, person=b"railcore-key").hexdigest()

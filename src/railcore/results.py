"""
What a rail answers.

``success``, ``pending`` or ``failed``, and never a failure that is only a guess.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, cast

import attrs

from railcore import _checks
from railcore.enums import PendingReason
from railcore.errors import InvalidValueError
from railcore.failures import (
    UNKNOWN_CAUSES,
    DefiniteFailureCode,
    PaymentFailureCode,
    UnknownCause,
)
from railcore.money import Money
from railcore.redaction import redacted, shown_reference, spelt_url

_RESPONSE_LIMIT: Final = 8192
_NOTHING: Final[Mapping[str, object]] = {}


class ResultStatus(StrEnum):
    """The three answers."""

    SUCCESS = "success"
    PENDING = "pending"
    FAILED = "failed"


class NextActionKind(StrEnum):
    """What the payer is shown."""

    REDIRECT = "redirect"
    FORM = "form"
    QR = "qr"
    QUOTE_REFERENCE = "quote_reference"
    WIDGET = "widget"


_WITH_URL: Final = frozenset({NextActionKind.REDIRECT, NextActionKind.FORM, NextActionKind.WIDGET})


def _spelt(url: Any) -> Any:
    return spelt_url(url) if isinstance(url, str) else url


@attrs.frozen(kw_only=True)
class NextAction:
    """
    What the payer has to do next.

    Attributes:
        kind: Redirect to a URL, submit a form, show a QR code, quote a reference in a transfer, or
            show the provider's own form in the host's page.
        url: Where to send the payer, for ``redirect`` and ``form``; the script of a ``widget``.
            Digits that could be a card's are spelt in another way that means the same.
        reference: What to quote, for ``quote_reference``; the QR payload for ``qr``.
        fields: Form fields, payment instructions or what a widget is told, as texts.
    """

    kind: NextActionKind = attrs.field(validator=_checks.one_of(NextActionKind))
    url: str | None = attrs.field(
        default=None, converter=_spelt, validator=_checks.text(2048, optional=True)
    )
    reference: str | None = attrs.field(default=None, validator=_checks.text(512, optional=True))
    fields: Mapping[str, str] = attrs.field(
        factory=dict, validator=_checks.texts(40, 4096), hash=False
    )

    def __attrs_post_init__(self) -> None:
        wants_url = self.kind in _WITH_URL
        if (self.url if wants_url else self.reference) is None:
            raise InvalidValueError("next_action", "a url" if wants_url else "a reference", "None")


def _safe_response(value: Mapping[str, object]) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise InvalidValueError("provider_response", "a mapping", _checks.shape(value))
    if not value:
        return _NOTHING
    safe = cast("dict[str, object]", redacted(value))
    size = len(json.dumps(safe))
    if size > _RESPONSE_LIMIT:
        raise InvalidValueError(
            "provider_response",
            f"an allow-listed projection of at most {_RESPONSE_LIMIT} characters",
            f"{size}",
        )
    return safe


def _are_further_successes(_: object, __: object, also: object) -> None:
    if also == ():
        return
    found = also if isinstance(also, tuple) else (also,)
    for one in found:
        sound = isinstance(one, RailResult) and one.status is ResultStatus.SUCCESS and not one.also
        if not sound or not isinstance(also, tuple):
            raise InvalidValueError("also", "a tuple of further successes", _checks.shape(one))


@attrs.frozen(kw_only=True)
class RailResult:
    """
    One answer of a rail.

    Build it with ``success``, ``pending``, ``unknown``, ``absent`` or ``failed``.

    Attributes:
        status: The answer.
        provider_ref: The provider's id of what it did; always present on success.
        reported: The amount that the provider says it moved or received so far.
        pending_reason: Why it waits; pending only.
        failure: The definite reason; failed only.
        cause: Why the outcome is unknown; pending with ``outcome_unknown`` only.
        is_absent: The provider knows nothing of this execution *now*; whether that proves anything
            is for rule R4.
        next_action: What the payer has to do.
        expires_at: When to ask again at the latest; passing it proves nothing.
        progress: Orders news of the same pending reason: approvals given, or minor units received.
        provider_response: An allow-listed projection of the answer; card numbers and secrets are
            masked here.
        retry_after_s: For how many seconds the provider asks to be left alone (Retry-After).
        also: What else the provider shows under the same key: further successes, each a charge
            too many. Put the one to go by first, and these in an order that stays the same.
    """

    status: ResultStatus = attrs.field(validator=_checks.one_of(ResultStatus))
    provider_ref: str | None = attrs.field(
        default=None, validator=_checks.reference(255), repr=shown_reference
    )
    reported: Money | None = attrs.field(
        default=None, validator=_checks.one_of(Money, optional=True)
    )
    pending_reason: PendingReason | None = attrs.field(
        default=None, validator=_checks.one_of(PendingReason, optional=True)
    )
    failure: PaymentFailureCode | None = attrs.field(
        default=None, validator=_checks.one_of(PaymentFailureCode, optional=True)
    )
    cause: PaymentFailureCode | None = attrs.field(
        default=None, validator=_checks.one_of(PaymentFailureCode, optional=True)
    )
    is_absent: bool = attrs.field(default=False, validator=_checks.one_of(bool))
    next_action: NextAction | None = attrs.field(
        default=None, validator=_checks.one_of(NextAction, optional=True)
    )
    expires_at: datetime | None = attrs.field(default=None, validator=_checks.aware)
    progress: int = attrs.field(default=0, validator=_checks.whole_number(0))
    provider_response: Mapping[str, object] = attrs.field(
        default=_NOTHING, converter=_safe_response, hash=False
    )
    retry_after_s: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(_checks.seconds)
    )
    also: "tuple[RailResult, ...]" = attrs.field(default=(), validator=_are_further_successes)

    def __attrs_post_init__(self) -> None:
        match self.status:
            case ResultStatus.SUCCESS:
                self._allow(reference=True, reason=False, failure=False)
                if self.reported is None:
                    raise InvalidValueError(
                        "reported", "the amount that the provider reports", "None"
                    )
            case ResultStatus.FAILED:
                self._allow(reference=False, reason=False, failure=True)
                if self.failure is None or not self.failure.is_definite:
                    raise InvalidValueError(
                        "failure", "a code that proves that no money moved", f"{self.failure}"
                    )
            case ResultStatus.PENDING:
                self._allow(reference=False, reason=True, failure=False)
                self._check_pending()

    def _allow(self, *, reference: bool, reason: bool, failure: bool) -> None:
        if reference and not self.provider_ref:
            raise InvalidValueError("provider_ref", "the provider's reference of a success", "none")
        if (self.pending_reason is not None) is not reason:
            raise InvalidValueError(
                "pending_reason", "a reason exactly when pending", f"{self.pending_reason}"
            )
        if (self.failure is not None) is not failure:
            raise InvalidValueError("failure", "a code exactly when failed", f"{self.failure}")
        waits = self.cause, self.next_action, self.expires_at
        if not reason and (self.is_absent or any(one is not None for one in waits)):
            raise InvalidValueError("status", "pending, for what waits", f"{self.status}")

    def _check_pending(self) -> None:
        if self.reported is not None and self.reported.amount_minor < 0:
            raise InvalidValueError("reported", "what was received so far", str(self.reported))
        unknown = self.pending_reason is PendingReason.OUTCOME_UNKNOWN
        if self.cause is not None and (not unknown or self.cause not in UNKNOWN_CAUSES):
            raise InvalidValueError("cause", "the cause of an unknown outcome", f"{self.cause}")
        if self.is_absent and not unknown:
            raise InvalidValueError("is_absent", "an unknown outcome", f"{self.pending_reason}")

    @classmethod
    def success(
        cls,
        provider_ref: str,
        reported: Money,
        *,
        provider_response: Mapping[str, object] = _NOTHING,
    ) -> "RailResult":
        """Return a definite success: the provider moved *reported* and calls it *provider_ref*."""
        return cls(
            status=ResultStatus.SUCCESS,
            provider_ref=provider_ref,
            reported=reported,
            provider_response=provider_response,
        )

    @classmethod
    def pending(
        cls,
        reason: PendingReason,
        *,
        provider_ref: str | None = None,
        reported: Money | None = None,
        next_action: NextAction | None = None,
        expires_at: datetime | None = None,
        progress: int = 0,
        provider_response: Mapping[str, object] = _NOTHING,
    ) -> "RailResult":
        """
        Return that the provider has it and that *reason* says who acts next.

        Doubt is ``unknown``, not this.
        """
        if reason == PendingReason.OUTCOME_UNKNOWN:
            raise InvalidValueError(
                "reason", "what the provider waits for; use RailResult.unknown", f"{reason}"
            )
        return cls(
            status=ResultStatus.PENDING,
            pending_reason=reason,
            provider_ref=provider_ref,
            reported=reported,
            next_action=next_action,
            expires_at=expires_at,
            progress=progress,
            provider_response=provider_response,
        )

    @classmethod
    def unknown(
        cls,
        cause: UnknownCause,
        *,
        provider_ref: str | None = None,
        provider_response: Mapping[str, object] = _NOTHING,
    ) -> "RailResult":
        """Return that the request may have left and no definite answer is known."""
        return cls(
            status=ResultStatus.PENDING,
            pending_reason=PendingReason.OUTCOME_UNKNOWN,
            cause=cause,
            provider_ref=provider_ref,
            provider_response=provider_response,
        )

    @classmethod
    def absent(cls) -> "RailResult":
        """
        Return that a lookup found nothing.

        The kernel decides by rule R4 whether that proves anything.
        """
        return cls(
            status=ResultStatus.PENDING,
            pending_reason=PendingReason.OUTCOME_UNKNOWN,
            is_absent=True,
        )

    @classmethod
    def failed(
        cls,
        code: DefiniteFailureCode,
        *,
        provider_ref: str | None = None,
        provider_response: Mapping[str, object] = _NOTHING,
    ) -> "RailResult":
        """
        Return a definite failure: no money moved and none will.

        Raises:
            InvalidValueError: *code* is ambiguous; use ``unknown``.
        """
        return cls(
            status=ResultStatus.FAILED,
            failure=code,
            provider_ref=provider_ref,
            provider_response=provider_response,
        )

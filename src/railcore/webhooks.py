"""
What providers tell us by themselves: raw bytes in, verified news out.

A delivery is verified on its raw bytes before anything else is looked at, stored under its event id
once, and only then read and applied. A provider's part is pure: it verifies and it parses.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, cast

import attrs

from railcore import _checks
from railcore.enums import Operation, PaymentRail, RouteMode
from railcore.errors import InvalidValueError
from railcore.redaction import Secret, shown_reference
from railcore.results import RailResult

BODY_LIMIT: Final = 256 * 1024
"""The most bytes of a delivery; more is not looked at."""

Headers = Mapping[str, str] | Iterable[tuple[str, str]]
"""Headers as a host has them: a mapping, or pairs in which a name may come twice."""

_LAST_PHASE: Final = 32_767
_BYTES: Final = _checks.one_of(bytes)


def _all_are(kind: type) -> Callable[[Any, Any, Any], None]:
    def check(_: Any, attribute: Any, value: Any) -> None:
        if not isinstance(value, tuple) or not all(isinstance(one, kind) for one in value):
            wanted = f"a tuple of {kind.__name__}"
            raise InvalidValueError(attribute.name, wanted, _checks.shape(value))

    return check


def joined(headers: Headers) -> Mapping[str, str]:
    """
    Return *headers* by name in lower case; those that came twice are joined by commas.

    >>> joined([("Webhook-Id", "a"), ("webhook-id", "b")])
    {'webhook-id': 'a, b'}
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    found: dict[str, str] = {}
    for name, value in cast("Iterable[tuple[str, str]]", pairs):
        key = name.lower()
        found[key] = f"{found[key]}, {value}" if key in found else value
    return found


@attrs.frozen(kw_only=True)
class Delivery:
    """
    One delivery as it arrived.

    Attributes:
        headers: By name in lower case; those that came twice are joined by commas.
        body: As received, byte for byte.
    """

    provider: str
    headers: Mapping[str, str] = attrs.field(hash=False, repr=False)
    body: bytes = attrs.field(validator=_BYTES, repr=False)


@attrs.frozen(kw_only=True)
class WebhookAccount:
    """
    An account at a provider that deliveries come for.

    Attributes:
        account: As in the routes.
        secrets: Those that are valid just now: two while one follows the other. What is in them is
            for the provider's verifier.
        tenant_id: Whose account it is; its deliveries touch no other tenant. None for an account
            that tenants share.
        orphan_tenant_id: Under whom money is noted that came into an account that tenants share and
            that no payment was found for.
        mode: Whether the account moves real money.
    """

    account: str = attrs.field(validator=_checks.text(64))
    secrets: tuple[Secret, ...] = attrs.field(validator=_all_are(Secret), repr=False)
    tenant_id: str | None = attrs.field(default=None, validator=_checks.text(64, optional=True))
    orphan_tenant_id: str = attrs.field(default="unassigned", validator=_checks.text(64))
    mode: RouteMode = attrs.field(default=RouteMode.LIVE, validator=_checks.one_of(RouteMode))


@attrs.frozen(kw_only=True)
class VerifiedDelivery:
    """
    What a verifier takes from a delivery that really comes from the provider.

    Attributes:
        event_id: The provider's id of the event, the same on every redelivery; None where there is
            none, and the body stands for itself.
        body: What to keep and to parse: the body, decrypted where the provider encrypts.
        signed_at: When the provider signed it; None where it does not say.
    """

    event_id: str | None = attrs.field(validator=_checks.text(255, optional=True))
    body: bytes = attrs.field(validator=_BYTES, repr=False)
    signed_at: datetime | None = attrs.field(default=None, validator=_checks.aware)


class WebhookTrust(StrEnum):
    """Whether a provider's deliveries are believed, or only a reason to ask it."""

    BODY = "body"
    REFETCH = "refetch"


@attrs.frozen(kw_only=True)
class WebhookNews:
    """
    What an event says of one execution, which is named in at least one way.

    Attributes:
        result: What is claimed, as a lookup would have answered.
        provider_key: The key that we sent with the request; looked for first.
        reference: A short reference that we gave to the execution.
        provider_ref: The provider's own id.
        phase: The step that it speaks of; None where there is one step only.
        operation, rail: What was done, and on which rail, where the event says. They decide what is
            made of money that no payment is found for: only charges and captures are orphans.
    """

    result: RailResult = attrs.field(validator=_checks.one_of(RailResult))
    provider_key: str | None = attrs.field(default=None, validator=_checks.reference(255))
    reference: str | None = attrs.field(
        default=None, validator=_checks.reference(255), repr=shown_reference
    )
    provider_ref: str | None = attrs.field(
        default=None, validator=_checks.reference(255), repr=shown_reference
    )
    phase: int | None = attrs.field(
        default=None, validator=_checks.whole_number(0, most=_LAST_PHASE, optional=True)
    )
    operation: Operation | None = attrs.field(
        default=None, validator=_checks.one_of(Operation, optional=True)
    )
    rail: PaymentRail | None = attrs.field(
        default=None, validator=_checks.one_of(PaymentRail, optional=True)
    )

    def __attrs_post_init__(self) -> None:
        if self.provider_key is None and self.reference is None and self.provider_ref is None:
            wanted = "a provider key, a reference or the provider's own id"
            raise InvalidValueError("provider_key", wanted, "none")


def json_event(body: bytes) -> Mapping[str, object]:
    """
    Return the JSON object that a verified body is; it says its ``type``.

    Raises:
        InvalidValueError: It is anything else.
    """
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError("body", "a JSON object", type(error).__name__) from error
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise InvalidValueError("body", "a JSON object with a type", type(value).__name__)
    return value


@attrs.frozen(kw_only=True)
class WebhookEvent:
    """
    An event, read.

    Attributes:
        news: What it says, of how many executions it speaks; nothing for an event that is not about
            payments.
        occurred_at: When it happened at the provider, for people; nothing is ordered by it.
    """

    news: tuple[WebhookNews, ...] = attrs.field(validator=_all_are(WebhookNews))
    occurred_at: datetime | None = attrs.field(default=None, validator=_checks.aware)


@attrs.frozen(kw_only=True)
class Sought:
    """
    An execution as an event names it.

    Attributes:
        tenant_id: None where tenants share the account.
        provider_key, reference, provider_ref: As in ``WebhookNews``; the first that finds any
            execution of the account decides.
    """

    tenant_id: str | None
    provider: str
    account: str
    provider_key: str | None = None
    reference: str | None = attrs.field(default=None, repr=shown_reference)
    provider_ref: str | None = attrs.field(default=None, repr=shown_reference)


class InboxState(StrEnum):
    """What became of a stored delivery."""

    RECEIVED = "received"
    APPLIED = "applied"
    PARKED = "parked"


class InboxVerdict(StrEnum):
    """What the inbox says to a delivery: new, here already, or here with another body."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


@attrs.frozen(kw_only=True)
class InboxItem:
    """
    A verified delivery in the inbox, and whose turn it is.

    Attributes:
        tenant_id: Whose account it came for; None where tenants share it.
        event_id: The provider's, or ``sha256:`` and the body's hash.
        body_sha256: 32 bytes, of the body as verified: decrypted where the provider encrypts.
        body: What is parsed; as received on the first try, card numbers masked later.
        attempts: How often it was tried; a settlement of an earlier try changes nothing.
        faults: How many of the earlier tries failed, and did not only wait.
        waited_s: For how long it has been here.
    """

    tenant_id: str | None
    provider: str
    account: str
    event_id: str
    body_sha256: bytes = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    signed_at: datetime | None = None
    attempts: int = 1
    faults: int = 0
    waited_s: float = 0.0


@attrs.frozen
class Settlement:
    """
    What became of one try to apply.

    Attributes:
        state: ``received`` when it is tried again.
        retry_s: In how many seconds; None exactly when it is not tried again.
        problem: Why it was not applied; no content of the delivery.
        is_fault: Whether something failed, so that the try counts towards ``park_after``.
    """

    state: InboxState
    retry_s: float | None = None
    problem: str | None = None
    is_fault: bool = False

    def __attrs_post_init__(self) -> None:
        if (self.state is InboxState.RECEIVED) is (self.retry_s is None):
            raise ValueError("what is tried again says when, and only that")


@attrs.frozen(kw_only=True)
class ParkedDelivery:
    """A delivery that is tried no more until a person says so."""

    tenant_id: str | None
    provider: str
    account: str
    event_id: str
    received_at: datetime
    attempts: int
    problem: str


@attrs.frozen(kw_only=True)
class WebhookSettings:
    """
    How deliveries are tried.

    Attributes:
        first_retry_s: When what waits or failed is tried again first; doubles every time.
        last_retry_s: The longest wait between two tries.
        patience_s: For how long a payment may stay unknown, or a provider that was asked again
            silent, before the news is parked.
        park_after: After how many tries that failed a delivery is parked; waiting does not count.
        lease_s: For how long one try is nobody else's.
    """

    first_retry_s: float = attrs.field(default=5.0, validator=_checks.seconds)
    last_retry_s: float = attrs.field(default=3600.0, validator=_checks.seconds)
    patience_s: float = attrs.field(default=259_200.0, validator=_checks.seconds)
    park_after: int = attrs.field(default=5, validator=_checks.whole_number(1, most=1000))
    lease_s: float = attrs.field(default=60.0, validator=_checks.seconds)

    def __attrs_post_init__(self) -> None:
        if not 0 < self.first_retry_s <= self.last_retry_s:
            wanted = f"above zero, at most last_retry_s = {self.last_retry_s:g} s"
            raise InvalidValueError("first_retry_s", wanted, f"{self.first_retry_s:g} s")

    def retry_s(self, attempts: int) -> float:
        """Return how long to wait after so many tries."""
        return min(self.last_retry_s, self.first_retry_s * 2.0 ** min(attempts - 1, 30))


class WebhookVerdict(StrEnum):
    """
    What became of a delivery that was taken.

    ``accepted`` is stored and not applied yet, ``applied`` is over, ``duplicate`` was here before,
    ``waiting`` is tried again, ``parked`` waits for a person. In every case it is safe here.
    """

    ACCEPTED = "accepted"
    APPLIED = "applied"
    DUPLICATE = "duplicate"
    WAITING = "waiting"
    PARKED = "parked"


@attrs.frozen(kw_only=True)
class WebhookReceipt:
    """
    What a host is told of a delivery that was taken.

    Attributes:
        item: What is still to be applied, for ``accepted``.
    """

    verdict: WebhookVerdict
    provider: str
    account: str
    event_id: str
    item: InboxItem | None = attrs.field(default=None, repr=False)


_AFTER: Final[Mapping[InboxState, WebhookVerdict]] = {
    InboxState.RECEIVED: WebhookVerdict.WAITING,
    InboxState.APPLIED: WebhookVerdict.APPLIED,
    InboxState.PARKED: WebhookVerdict.PARKED,
}


def receipt_of(item: InboxItem, state: InboxState | None = None) -> WebhookReceipt:
    """Return the receipt of *item* after a try that left it in *state*; None before any try."""
    verdict = WebhookVerdict.ACCEPTED if state is None else _AFTER[state]
    told: dict[str, Any] = {"provider": item.provider, "account": item.account}
    is_open = state is None
    return WebhookReceipt(
        verdict=verdict, event_id=item.event_id, item=item if is_open else None, **told
    )

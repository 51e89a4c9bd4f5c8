"""HyperPay's webhooks: what decrypts is heard, all else is refused."""

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from railcore.enums import Operation, PaymentRail, PendingReason
from railcore.errors import InvalidValueError, RailcoreError, WebhookRefusedError
from railcore.failures import PaymentFailureCode
from railcore.money import SAR, Money
from railcore.redaction import Secret
from railcore.results import ResultStatus
from railcore.webhooks import Delivery, WebhookTrust
from railcore_adapters.hyperpay import HyperPayWebhooks, classify
from railcore_adapters.hyperpay.wire import OUR_KEY
from tests.adapters.hyperpay.answers import CHECKOUT, asked, payment

SAMPLES = Path(__file__).parents[4] / "shared" / "providers" / "hyperpay-samples"
KEY, OTHER = "0f" * 32, "A0" * 32
NOW = datetime(2026, 8, 30, tzinfo=UTC)
WEBHOOKS = HyperPayWebhooks()


def sealed(body: bytes, *, key: str = KEY, wrapped: bool = False, upper: bool = False) -> Delivery:
    """*body* as HyperPay delivers it."""
    vector = os.urandom(12)
    octets = AESGCM(bytes.fromhex(key)).encrypt(vector, body, None)
    cipher, tag = octets[:-16].hex(), octets[-16:].hex()
    if upper:
        cipher, tag = cipher.upper(), tag.upper()
    text = json.dumps({"encryptedBody": cipher}) if wrapped else cipher
    headers = {"x-initialization-vector": vector.hex(), "x-authentication-tag": tag}
    return Delivery(provider="hyperpay", headers=headers, body=text.encode())


def event(code: str = "000.000.000", **changed: Any) -> bytes:
    """A payment that is told of."""
    execution = asked()
    echo = {OUR_KEY: execution.provider_key}
    told = payment(execution, code, **{"customParameters": echo, "ndc": "entity_hash", **changed})
    return json.dumps({"type": "PAYMENT", "payload": told}).encode()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("upper", [False, True])
def test_a_delivery_is_decrypted_in_either_form_and_case(wrapped: bool, upper: bool) -> None:
    delivery = sealed(event(), wrapped=wrapped, upper=upper)
    assert WEBHOOKS.verify(delivery, [Secret(KEY)], NOW).body == event()


def test_keys_rotate() -> None:
    for key in (KEY, OTHER):
        both = [Secret("no key at all"), Secret(OTHER), Secret(KEY)]
        assert WEBHOOKS.verify(sealed(event(), key=key), both, NOW).body == event()


def test_what_is_decrypted_stands_for_itself() -> None:
    assert WEBHOOKS.verify(sealed(event()), [Secret(KEY)], NOW).event_id is None


def test_a_success_in_test_mode_is_believed_where_that_is_allowed() -> None:
    (news,) = HyperPayWebhooks(takes_test_mode=True).parse(event("000.100.110")).news
    assert news.result.status is ResultStatus.SUCCESS


@pytest.mark.parametrize("where", ["body", "vector", "tag", "key"])
def test_a_tampered_delivery_is_refused(where: str) -> None:
    delivery = sealed(event())
    headers, body = dict(delivery.headers), delivery.body
    match where:
        case "body":
            body = bytes([body[0] ^ 1]) + body[1:]
        case "vector":
            headers["x-initialization-vector"] = "00" * 12
        case "tag":
            headers["x-authentication-tag"] = "00" * 16
    secret = Secret(OTHER if where == "key" else KEY)
    forged = Delivery(provider="hyperpay", headers=headers, body=body)
    with pytest.raises(WebhookRefusedError):
        WEBHOOKS.verify(forged, [secret], NOW)


@pytest.mark.parametrize(
    ("headers", "body", "problem"),
    [
        ({}, b"00", "its vector is not 24 hexadecimal digits"),
        ({"x-authentication-tag": "zz" * 16}, b"00", "its tag is not 32 hexadecimal digits"),
        ({"x-authentication-tag": "00" * 15}, b"00", "its tag is not 32 hexadecimal digits"),
        (None, b"", "its body is not hexadecimal digits"),
        (None, b"abc", "its body is not hexadecimal digits"),
        (None, b"{", "its body is no JSON"),
        (None, b"{}", "its body has no encryptedBody"),
        (None, b'{"encryptedBody": 7}', "its body has no encryptedBody"),
    ],
)
def test_what_is_no_delivery_is_refused(
    headers: dict[str, str] | None, body: bytes, problem: str
) -> None:
    whole = {"x-initialization-vector": "00" * 12, "x-authentication-tag": "00" * 16}
    sent = whole if headers is None else ({**whole, **headers} if headers else {})
    with pytest.raises(WebhookRefusedError, match=problem):
        WEBHOOKS.verify(Delivery(provider="hyperpay", headers=sent, body=body), [], NOW)


@given(st.binary(max_size=300), st.dictionaries(st.text(max_size=30), st.text(max_size=40)))
def test_anything_is_refused_and_nothing_else_is_raised(
    body: bytes, headers: dict[str, str]
) -> None:
    delivery = Delivery(provider="hyperpay", headers=headers, body=body)
    with pytest.raises(WebhookRefusedError):
        WEBHOOKS.verify(delivery, [Secret(KEY)], NOW)


def test_a_success_is_told_with_its_amount_and_our_key() -> None:
    (news,) = WEBHOOKS.parse(event()).news
    assert news.provider_key == asked().provider_key
    assert news.provider_ref == "8ac7a4payment"
    assert (news.operation, news.rail) == (Operation.CHARGE, PaymentRail.CARD_PSP)
    assert (news.result.status, news.result.reported) == (ResultStatus.SUCCESS, Money(1250, SAR))


def test_what_a_delivery_says_is_looked_up_unless_told_otherwise() -> None:
    assert WEBHOOKS.trust is WebhookTrust.REFETCH


@pytest.mark.parametrize(
    ("code", "changed", "reason", "failure"),
    [
        ("000.200.000", {}, PendingReason.PROVIDER_PROCESSING, None),
        ("800.100.155", {}, None, PaymentFailureCode.INSUFFICIENT_FUNDS),
        ("100.390.112", {}, None, PaymentFailureCode.DECLINED),
        ("000.200.000", {"ndc": CHECKOUT}, PendingReason.OUTCOME_UNKNOWN, None),
        ("800.100.155", {"ndc": None}, PendingReason.OUTCOME_UNKNOWN, None),
        ("800.100.155", {"ndc": CHECKOUT}, PendingReason.OUTCOME_UNKNOWN, None),
        ("000.100.110", {}, PendingReason.OUTCOME_UNKNOWN, None),
        ("000.100.221", {}, PendingReason.OUTCOME_UNKNOWN, None),
        ("900.100.300", {}, PendingReason.OUTCOME_UNKNOWN, None),
        ("000.000.000", {"amount": None}, PendingReason.OUTCOME_UNKNOWN, None),
    ],
)
def test_what_may_change_yet_is_not_called_an_end(
    code: str,
    changed: dict[str, Any],
    reason: PendingReason | None,
    failure: PaymentFailureCode | None,
) -> None:
    (news,) = WEBHOOKS.parse(event(code, **changed)).news
    assert (news.result.pending_reason, news.result.failure) == (reason, failure)


@pytest.mark.parametrize(
    "body",
    [
        b'{"type": "REGISTRATION", "action": "CREATED", "payload": {"id": "x"}}',
        b'{"type": "test"}',
        b'{"type": "PAYMENT", "payload": {"id": "x", "paymentType": "CB"}}',
        b'{"type": "PAYMENT", "payload": {"paymentType": "DB"}}',
    ],
)
def test_what_is_not_about_payments_of_ours_is_no_news(body: bytes) -> None:
    assert WEBHOOKS.parse(body).news == ()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"type": "PAYMENT", "payload": []}'])
def test_what_is_no_event_is_kept_for_a_person(body: bytes) -> None:
    with pytest.raises(InvalidValueError):
        WEBHOOKS.parse(body)


@given(st.binary(max_size=200))
def test_only_documented_errors_are_raised(body: bytes) -> None:
    with suppress(RailcoreError):
        WEBHOOKS.parse(body)


@pytest.mark.skipif(not SAMPLES.exists(), reason="the samples are not part of railcore")
def test_published_deliveries_decrypt_and_tampered_ones_do_not() -> None:
    vectors = [json.loads(one.read_text()) for one in sorted(SAMPLES.glob("webhook-*.json"))]
    vectors = [one for one in vectors if "key_hex" in one]
    for one in vectors:
        headers = {name.lower(): value for name, value in one["headers"].items()}
        delivery = Delivery(provider="hyperpay", headers=headers, body=one["raw_body"].encode())
        key = Secret(one["key_hex"])
        assert WEBHOOKS.verify(delivery, [key], NOW).body.decode() == one["plaintext"]
        headers["x-authentication-tag"] = headers["x-authentication-tag"][::-1]
        with pytest.raises(WebhookRefusedError):
            WEBHOOKS.verify(delivery, [key], NOW)
    print(f"{len(vectors)} vectors")  # noqa: T201 - how many there were
    assert vectors


EXPECTED = {
    "checkout-created": "pending",
    "checkout-created-minimal": "pending",
    "error-parameter-not-allowed": "unknown",
    "payment-declined-400": "failed",
    "payment-pending-3ds-redirect": "pending",
    "query-not-found": "absent",
    "refund-success": "test_success",
    "status-session-not-found": "unknown",
    "status-success-cart-sar": "success",
    "status-success-sar-uat": "success",
    "status-success-visa-test": "test_success",
    "throttled": "throttled",
    "webhook-payment-pending-sar": "pending",
}


@pytest.mark.skipif(not SAMPLES.exists(), reason="the samples are not part of railcore")
def test_published_samples_mean_what_their_notes_say() -> None:
    seen = {}
    for path in SAMPLES.glob("*.json"):
        body = json.loads(path.read_text()).get("body")
        if body is None or "payments" in body:
            continue
        item = body.get("payload", body)
        seen[path.stem] = str(classify(item["result"]["code"]).outcome)
    print(f"{len(seen)} samples")  # noqa: T201 - how many there were
    assert seen == EXPECTED

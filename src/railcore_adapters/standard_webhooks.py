"""
Standard Webhooks: signing what we send, and checking what we are sent.

A delivery carries ``webhook-id``, ``webhook-timestamp`` (seconds since 1970) and
``webhook-signature``: one or more ``v1,<base64>``, separated by blanks. The signature is
HMAC-SHA256 of ``<id>.<timestamp>.<body>``, so nothing in it may be read in two ways: an id with a
dot in it could move the border to the timestamp, and is refused.

The package ``standardwebhooks`` is not used: it answers headers that no honest sender makes with
whatever exception happens to arise, and to be sure of one kind of refusal everything here would
have to be checked before it is called.

Source: https://github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from railcore.errors import InvalidValueError, MisconfiguredError, WebhookRefusedError
from railcore.redaction import Secret

__all__ = ["ID", "SIGNATURE", "TIMESTAMP", "check_secret", "sign", "verify"]

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"

_PREFIX: Final = "whsec_"
_OURS: Final = "standard-webhooks"
_LEAST_KEY, _MOST_KEY = 16, 128
_MOST_SIGNATURES: Final = 32
_AN_ID: Final = re.compile(r"[\x21-\x2b\x2d\x2f-\x7e]{1,128}")
"""Visible ASCII without comma and dot: two headers joined by a comma are no id."""

_A_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")
_A_SIGNATURE: Final = re.compile(r"([0-9A-Za-z]{1,16}),([0-9A-Za-z+/]{1,1024}={0,2})")


def sign(secret: Secret, message_id: str, timestamp: int, body: bytes) -> str:
    """
    Return the signature of one message, for the header ``webhook-signature``.

    Args:
        secret: Base64 of the key, with or without ``whsec_``.
        message_id: The same for every try of the same message; visible ASCII without ``.`` and
            ``,``.
        timestamp: Of this try, in whole seconds since 1970.
        body: As sent.

    Raises:
        MisconfiguredError: The secret is no base64 of 16 to 128 bytes.
        InvalidValueError: The id or the timestamp would be refused by everybody.

    >>> secret = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    >>> sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    if not _AN_ID.fullmatch(message_id):
        raise InvalidValueError("message_id", "visible ASCII without dot and comma", "another text")
    if not 0 <= timestamp < 10**12:
        raise InvalidValueError("timestamp", "whole seconds since 1970", "another number")
    digest = _digest(_key(secret), message_id, str(timestamp), body)
    return f"v1,{base64.b64encode(digest).decode()}"


def verify(
    secrets: Sequence[Secret],
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
    tolerance_s: float = 300,
) -> str:
    """
    Return the id of a message that one of *secrets* signed lately.

    Args:
        secrets: Those that are valid just now: two while one follows the other.
        headers: In any case; those sent twice joined by commas, as HTTP has it.
        body: As received, byte for byte.
        now: Aware.
        tolerance_s: How far the message's timestamp may be from *now*, either way.

    Raises:
        WebhookRefusedError: A header is missing, doubled or malformed, the timestamp is too far
            away, or no signature fits.
        MisconfiguredError: There is no secret, or one that is no base64 of 16 to 128 bytes.
    """
    if not secrets:
        raise MisconfiguredError("secrets", "there is none", "Give at least one")
    message_id = _header(headers, ID, _AN_ID)
    timestamp = _header(headers, TIMESTAMP, _A_TIMESTAMP)
    offered = _signatures(_single(headers, SIGNATURE))
    _check_age(int(timestamp), now, tolerance_s)
    fits = False
    for secret in secrets:  # all of them, all signatures, whichever fits: time tells nothing
        digest = _digest(_key(secret), message_id, timestamp, body)
        for signature in offered:
            fits |= hmac.compare_digest(digest, signature)
    if not fits:
        raise WebhookRefusedError(_OURS, "no signature fits a secret that is known here")
    return message_id


def check_secret(secret: Secret) -> None:
    """
    Check that *secret* can sign.

    Raises:
        MisconfiguredError: It is no base64 of 16 to 128 bytes.
    """
    _key(secret)


def _digest(key: bytes, message_id: str, timestamp: str, body: bytes) -> bytes:
    return hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()


def _key(secret: Secret) -> bytes:
    text = secret.reveal().removeprefix(_PREFIX)
    try:
        key = base64.b64decode(text.encode(), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if not _LEAST_KEY <= len(key) <= _MOST_KEY:
        problem = f"no base64 of {_LEAST_KEY} to {_MOST_KEY} bytes"
        raise MisconfiguredError("webhook secret", problem, "Copy it anew, whole: whsec_...")
    return key


def _header(headers: Mapping[str, str], name: str, wanted: re.Pattern[str]) -> str:
    value = _single(headers, name)
    if not wanted.fullmatch(value):
        raise WebhookRefusedError(_OURS, f"header {name} is malformed")
    return value


def _single(headers: Mapping[str, str], name: str) -> str:
    found = [value for given, value in headers.items() if given.lower() == name]
    if len(found) != 1:
        raise WebhookRefusedError(_OURS, f"header {name} is {'doubled' if found else 'missing'}")
    return found[0]


def _signatures(value: str) -> list[bytes]:
    """Return the signatures of version 1; those of other versions are for other receivers."""
    parts = value.split(" ", _MOST_SIGNATURES)
    found = [_A_SIGNATURE.fullmatch(part) for part in parts]
    if len(parts) > _MOST_SIGNATURES or not all(found):
        raise WebhookRefusedError(_OURS, f"header {SIGNATURE} is malformed")
    return [_decoded(one[2]) for one in found if one is not None and one[1] == "v1"]


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode(), validate=True)
    except binascii.Error:
        raise WebhookRefusedError(_OURS, f"header {SIGNATURE} holds no base64") from None


def _check_age(timestamp: int, now: datetime, tolerance_s: float) -> None:
    ahead_s = timestamp - now.timestamp()
    if abs(ahead_s) > tolerance_s:
        side = "from the future" if ahead_s > 0 else "too old"
        raise WebhookRefusedError(_OURS, f"the message is {side}: {abs(ahead_s):.0f} s away")

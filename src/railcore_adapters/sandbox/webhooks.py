"""
The sandbox tells by itself what became of its charges and payments, well or badly on demand.

Deliveries follow Standard Webhooks and leave from a thread of their own; one that is not answered
with 2xx is sent again, with the same id. Every change is an event, except that it began.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, get_args
from urllib.parse import urlsplit

from railcore.redaction import Secret
from railcore_adapters.sandbox.ledger import now, stamp
from railcore_adapters.standard_webhooks import ID, SIGNATURE, TIMESTAMP, sign

How = Literal["on_time", "late", "twice", "reversed", "early", "forged", "other_body", "never"]
"""
How the next events leave: `late` after ``delay_s``; `reversed` together after ``delay_s``, the
newest first; `early` before the answer to the request that caused them; `forged` and `other_body`
with a false one beside the true one, signed with another secret or under the same id.
"""

HOWS: Final[tuple[How, ...]] = get_args(How)
DEFAULT_SECRET: Final = "whsec_c2FuZGJveC1zaWducy13aXRoLXRoaXMtc2VjcmV0"  # noqa: S105 - a fake one, for a fake provider

_FALSE_SECRET: Final = f"whsec_{base64.b64encode(b'nobody gave us this key').decode()}"
_TRIES: Final = 8
_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SentWebhook:
    """One delivery as it left, and what was answered; 0 for no answer."""

    event_id: str
    is_true: bool
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """An event on its way."""

    event_id: str
    account: str
    body: bytes
    due_s: float
    secret: str
    is_true: bool = True
    left: int = _TRIES
    done: threading.Event | None = None


@dataclass(eq=False, kw_only=True)
class WebhookSender:
    """
    Sends events to *url*.

    Attributes:
        url: Where to; nothing is sent while it is empty.
        how: How events leave.
        secret: What signs them.
        delay_s: The wait of `late` and `reversed`.
        retry_s: The wait before a delivery is tried again.
        tell: What the body says of an object, as it is shown, and the event's id.
        seal: Headers and body as they leave, signed or encrypted.
        sent: Every delivery, in the order in which they left.
    """

    url: str = ""
    how: How = "on_time"
    secret: str = DEFAULT_SECRET
    delay_s: float = 0.2
    retry_s: float = 0.1
    tell: Callable[[Mapping[str, Any], str], Mapping[str, Any]] = field(
        default_factory=lambda: _told, repr=False
    )
    seal: Callable[[Parcel], tuple[Mapping[str, str], bytes]] = field(
        default_factory=lambda: _signed, repr=False
    )
    sent: list[SentWebhook] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._waiting: list[Parcel] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_stopping = False
        self._count = 0
        self._under_way = 0

    def announce(self, view: Mapping[str, Any]) -> None:
        """Send that a charge or a payment is now as *view* shows it."""
        if not self.url or self.how == "never":
            return
        event = self._event(view)
        done = threading.Event() if self.how == "early" else None
        for waiting in self._planned(view, replace(event, done=done)):
            self._put(waiting)
        if done is not None:
            done.wait(_TIMEOUT_S)

    def configure(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """
        Change `url`, `how`, `secret` or `delay_s`, and return what they are.

        Raises:
            ValueError: There is no such thing, or no such way.
        """
        for name, value in asked.items():
            kind = _KINDS.get(name)
            if kind is None or not isinstance(value, kind):
                raise ValueError(f"{name!r} is none of {', '.join(_KINDS)}, or of another kind.")
            if name == "how" and value not in HOWS:
                raise ValueError(f"{value!r} is no way; there are: {', '.join(HOWS)}.")
        for name, value in asked.items():
            setattr(self, name, value)
        return {"url": self.url, "how": self.how, "delay_s": self.delay_s}

    def settle(self, timeout_s: float = 10.0) -> bool:
        """Wait until everything has left; whether it did in time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waiting and not self._under_way, timeout_s
            )

    def stop(self) -> None:
        """Forget what has not left."""
        with self._changed:
            self._is_stopping = True
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _event(self, view: Mapping[str, Any]) -> Parcel:
        self._count += 1
        name = f"{view['id']}/{view['status']}/{self._count}"
        event_id = f"evt_{hashlib.blake2b(name.encode(), digest_size=12).hexdigest()}"
        return Parcel(
            event_id=event_id,
            account=str(view["account"]),
            body=_json(self.tell(view, event_id)),
            due_s=time.monotonic(),
            secret=self.secret,
        )

    def _planned(self, view: Mapping[str, Any], event: Parcel) -> list[Parcel]:
        said = _json(self.tell(_lie(view), event.event_id))
        lie = replace(event, body=said, is_true=False, left=1, done=None)
        match self.how:
            case "late":
                return [replace(event, due_s=event.due_s + self.delay_s)]
            case "twice":
                return [event, event]
            case "reversed":
                return self._turned_round(event)
            case "forged":
                return [replace(lie, secret=_FALSE_SECRET), event]
            case "other_body":
                return [event, replace(lie, due_s=lie.due_s + self.delay_s)]
            case _:
                return [event]

    def _turned_round(self, event: Parcel) -> list[Parcel]:
        """Hold the event and those before it, the newest due first."""
        due_s = event.due_s + self.delay_s
        with self._changed:
            held = [one for one in self._waiting if one.due_s > event.due_s]
            for one in held:
                self._waiting.remove(one)
        return [
            replace(one, due_s=due_s + place / 1000)
            for place, one in enumerate([event, *sorted(held, key=lambda one: one.due_s)])
        ]

    def _put(self, waiting: Parcel) -> None:
        with self._changed:
            self._is_stopping = False
            self._waiting.append(waiting)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="railcore-sandbox-webhooks", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while (waiting := self._next()) is not None:
            status = _post(self.url, *self.seal(waiting))
            row = SentWebhook(event_id=waiting.event_id, is_true=waiting.is_true, status=status)
            self.sent.append(row)
            if waiting.done is not None:
                waiting.done.set()
            with self._changed:
                self._under_way -= 1
                if not 200 <= status < 300 and waiting.left > 1 and not self._is_stopping:
                    due_s = time.monotonic() + self.retry_s
                    self._waiting.append(replace(waiting, due_s=due_s, left=waiting.left - 1))
                self._changed.notify_all()

    def _next(self) -> Parcel | None:
        with self._changed:
            while not self._is_stopping:
                first = min(self._waiting, key=lambda one: one.due_s, default=None)
                wait_s = None if first is None else first.due_s - time.monotonic()
                if first is not None and wait_s is not None and wait_s <= 0:
                    self._waiting.remove(first)
                    self._under_way += 1
                    return first
                self._changed.wait(wait_s)
            return None


_KINDS: Final[Mapping[str, Any]] = {
    "url": str,
    "how": str,
    "secret": str,
    "delay_s": (int, float),
}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _told(view: Mapping[str, Any], event_id: str) -> Mapping[str, Any]:
    return {
        "id": event_id,
        "type": f"{view['object']}.updated",
        "created_at": stamp(now()),
        "data": dict(view),
    }


def _lie(view: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return *view* with another outcome."""
    liar = {"succeeded": "declined", "settled": "rejected", "declined": "succeeded"}
    return {**view, "status": liar.get(str(view["status"]), "settled")}


def _signed(parcel: Parcel) -> tuple[Mapping[str, str], bytes]:
    timestamp = int(time.time())
    headers = {
        "content-type": "application/json",
        ID: parcel.event_id,
        TIMESTAMP: str(timestamp),
        SIGNATURE: sign(Secret(parcel.secret), parcel.event_id, timestamp, parcel.body),
    }
    return headers, parcel.body


def _post(url: str, headers: Mapping[str, str], body: bytes) -> int:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT_S)
    try:
        connection.request("POST", parts.path, body, dict(headers))
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()

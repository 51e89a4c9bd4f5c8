"""
A provider that writes card numbers into everything it says, and what finds them afterwards.

Every field gets a number of its own, so that a number that is found says where it came from.
"""

import json
import random
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import attrs

FORMS: Final = ("{}", "{} declined", "card={}")
DIGITS: Final = re.compile(r"(?<![0-9])[0-9]{13,19}(?![0-9])")
# Random and hashed names hold any digits: what is no card number by its neighbours.
NAMES: Final = re.compile(
    r"\b[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b"
    r"|\b[0-9A-Fa-f]{24,}\b"
)
BETWEEN: Final = re.compile(r"[ .\-]")


def luhn(digits: str) -> bool:
    """Tell whether *digits* end in their check digit; written anew, to judge the other one."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def runs_in(text: str) -> list[str]:
    """Return every run of 13 to 19 digits that could be a card number."""
    return [run for run in DIGITS.findall(NAMES.sub("#", text)) if luhn(run)]


@attrs.define
class Cards:
    """Makes card numbers, and remembers what each was written into."""

    chance: random.Random
    places: dict[str, str] = attrs.field(factory=dict)

    def number(self, place: str, length: int | None = None) -> str:
        """Return a new number for *place*; no two are equal."""
        length = length or self.chance.choice([13, 14, 15, 16, 16, 16, 17, 18, 19])
        first = self.chance.choice(["4", "51", "37", "6011", "222100"])
        body = first + "".join(self.chance.choices("0123456789", k=length - len(first) - 1))
        (number,) = (body + last for last in "0123456789" if luhn(body + last))
        self.places[number] = place
        return number

    def text(self, place: str) -> str:
        """Return a text of *place* with a number in it: bare, in groups, between words."""
        number = self.number(place)
        spelt = self.chance.choice([number, " ".join(grouped(number)), "-".join(grouped(number))])
        return self.chance.choice(FORMS).format(spelt)

    def found_in(self, text: str) -> list[str]:
        """Return the places of the numbers that are in *text*, however they are spelt."""
        together = BETWEEN.sub("", text)
        known = (number for number in self.places if number in text or number in together)
        return sorted({self.places[number] for number in known})


def grouped(number: str) -> list[str]:
    """Return *number* in groups of four."""
    return [number[at : at + 4] for at in range(0, len(number), 4)]


@attrs.define
class SpillingProvider:
    """
    Speaks as the sandbox does, with a card number in every field of every answer.

    What becomes of an order is told by its instrument, for follow-ups by its amount's last digit.
    """

    cards: Cards
    said: Counter[str] = attrs.field(factory=Counter)
    objects: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    lock: threading.Lock = attrs.field(factory=threading.Lock)
    url: str = ""
    authorization: str = ""

    def answer(self, method: str, path: str, body: bytes, authorization: str) -> tuple[int, bytes]:
        """Return the status and the body."""
        with self.lock:
            self.authorization = authorization
            split = urlsplit(path)
            kind = split.path.rpartition("/")[2]
            if method == "GET":
                (reference,) = parse_qs(split.query)["reference"]
                return self._looked_up(reference)
            return self._ordered(kind, json.loads(body))

    def headers(self) -> Mapping[str, str]:
        """Return headers that spill, too."""
        names = ("X-Request-Id", "Set-Cookie", "Retry-After", "X-Debug", "Server", "Location")
        return {name: self.cards.text(f"header {name}") for name in names}

    def reason(self) -> str:
        """Return what stands behind the status."""
        return self.cards.text("reason phrase")

    def item(self, order: Mapping[str, Any], kind: str, status: str) -> dict[str, Any]:
        """Return a charge or a payment; every text but those that find it is a card number."""
        self.said[status] += 1
        spoken = {
            name: self.cards.text(f"{kind}.{name}")
            for name in ("decline_code", "account", "created_at", "livemode", "message", "error")
        }
        return {
            "id": self.cards.number(f"{kind}.id"),
            "object": kind.removesuffix("s"),
            "status": status,
            "amount_minor": order["amount_minor"],
            "currency": order["currency"],
            "reference": order["reference"],
            **spoken,
            "metadata": {self.cards.text("metadata name"): self.cards.text("metadata value")},
            "card": {"number": self.cards.number("card.number"), "cvv": "737"},
            "authorize_url": f"https://bank.example/pay/{self.cards.number('authorize_url')}",
            "expires_at": self.cards.text("expires_at"),
            "debug": f"you came with {self.authorization}",
        }

    def _ordered(self, kind: str, order: dict[str, Any]) -> tuple[int, bytes]:
        wanted = str(order.get("instrument") or f"tok_{_BY_AMOUNT[order['amount_minor'] % 10]}")
        how = wanted.removeprefix("tok_")
        self.said[how] += 1
        error = {"code": self.cards.text("error.code"), "message": self.cards.text("error.message")}
        error["debug"] = f"you came with {self.authorization}"
        if how == "refused":
            return 422, _json({"error": {**error, "code": "not_possible"}})
        if how == "unreadable":
            return 200, self.cards.text("a body that is no JSON").encode()
        if how == "broken":
            return 500, _json({"error": error})
        if how == "strange":
            return 400, _json({"error": error})
        status = {"declined": "declined", "pending": "pending"}.get(how, "succeeded")
        item = self.item(order, kind, "awaiting_authorization" if kind == "payments" else status)
        if how == "much":
            item["amount_minor"] += 1
        if how == "currency":
            item["currency"] = self.cards.number("currency")
        if how == "status":
            item["status"] = self.cards.number("status")
        if how == "elsewhere":
            item["reference"] = self.cards.number("reference")
        if how == "late":  # says nothing, and charges
            self.objects[order["reference"]] = item
            return 500, _json({"error": error})
        self.objects[order["reference"]] = item
        return 402 if status == "declined" else 201, _json(item)

    def _looked_up(self, reference: str) -> tuple[int, bytes]:
        self.said["looked up"] += 1
        item = self.objects.get(reference)
        if item is None:
            return 200, _json({"data": [], "message": self.cards.text("lookup.message")})
        again = {
            **item,
            "account": self.cards.text("lookup.account"),
            "created_at": self.cards.text("lookup.created_at"),
        }
        return 200, _json({"data": [again], "message": self.cards.text("lookup.message")})


_BY_AMOUNT: Final = {
    0: "visa",
    1: "declined",
    2: "refused",
    3: "unreadable",
    4: "broken",
    5: "strange",
    6: "pending",
    7: "late",
    8: "much",
    9: "currency",
}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


@contextmanager
def serving(provider: SpillingProvider) -> Iterator[SpillingProvider]:
    """Serve *provider* on loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self._reply(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def do_GET(self) -> None:
            self._reply(b"")

        def _reply(self, asked: bytes) -> None:
            authorization = self.headers.get("Authorization", "")
            status, body = provider.answer(self.command, self.path, asked, authorization)
            self.send_response(status, provider.reason())
            for name, value in provider.headers().items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def version_string(self) -> str:
            return "spilling"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        provider.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield provider
        finally:
            server.shutdown()
            thread.join()

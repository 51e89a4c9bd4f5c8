"""
Write the billing run of ``railcore demo``: ``python examples/make_billing_run.py``.

The file is the same on every machine. It holds what a month of billing meets: payments over all
five rails for four tenants in five currencies, a provider that declines, loses answers and answers
nonsense, keys that come twice, wallets that are empty, and options that lead nowhere.

``metadata.story`` says what the people around a payment do; only the demo reads it. Test
instruments and amounts that end in 951 to 973 ask the sandbox for a fault.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

Row = dict[str, object]

HERE = Path(__file__).parent
SEED = 20260101
FAULTY_ENDINGS = range(950, 974)
EXPONENTS = {"SAR": 2, "AED": 2, "USD": 2, "JPY": 0, "KWD": 3}
TENANTS = {
    "acme-gym": ("SAR",),
    "dunes-travel": ("AED", "USD"),
    "gulf-power": ("KWD",),
    "sakura-school": ("JPY",),
}
OUTSIDE_JAPAN = ("acme-gym", "dunes-travel", "gulf-power")
TOO_MUCH = 7_500_000
"""More minor units than any wallet holds when the demo begins."""

CARD_FAULTS = {
    "declined": 6,
    "insufficient_funds": 5,
    "expired_card": 4,
    "authentication_failed": 4,
    "risk": 3,
    "slow": 5,
    "drop": 5,
    "503": 4,
    "429": 4,
    "401": 2,
    "lose_answer": 6,
    "delay": 4,
    "500_after": 5,
    "garbage": 4,
    "truncated": 4,
    "slow_drip": 3,
    "wrong_amount": 3,
    "wrong_currency": 3,
    "duplicate": 4,
}
PENDING_CARDS = {"the provider settles": 3, "the provider declines": 2, "the provider is slow": 1}
PAYERS = {"the payer approves": 50, "the payer rejects": 8, "the payer walks away": 8}
BANK_FAULTS = (961, 962, 963, 965, 965, 966, 967, 968, 969, 970, 971, 973)
FUNDS = {"the funds arrive": 36, "the funds arrive in part": 6, "no funds yet": 14}
COUNTER = {"the counter confirms": 36, "the counter rejects": 5, "the counter has not looked": 7}


class Book:
    """Numbers invoices and draws tenants and amounts, always the same ones."""

    def __init__(self) -> None:
        self._random = Random(SEED)
        self._number = 0

    def row(
        self,
        option: str,
        *,
        tenants: tuple[str, ...] = tuple(TENANTS),
        ending: int | None = None,
        **more: object,
    ) -> Row:
        """Return a payment by *option*; *ending* is what its amount ends in."""
        tenant = self._random.choice(tenants)
        currency = self._random.choice(TENANTS[tenant])
        self._number += 1
        invoice = f"inv-{self._number:05}"
        return {
            "tenant_id": tenant,
            "payment_id": invoice,
            "idempotency_key": f"{invoice}-try-1",
            "amount": decimal(self._minor(currency, ending), currency),
            "currency": currency,
            "payment_option_key": option,
            **more,
        }

    def _minor(self, currency: str, ending: int | None) -> int:
        if ending is not None:
            return self._random.randrange(2, 90) * 1000 + ending
        while True:
            minor = self._random.randrange(500, 90_000) * (10 if currency == "KWD" else 1)
            if minor % 1000 not in FAULTY_ENDINGS:
                return minor


def decimal(minor: int, currency: str) -> str:
    """Return an amount as people write it, with the currency's decimal places."""
    exponent = EXPONENTS[currency]
    whole, rest = divmod(minor, 10**exponent)
    return f"{whole}.{rest:0{exponent}}" if exponent else f"{whole}"


def story(text: str) -> Row:
    """Return the field that tells the demo what people do."""
    return {"metadata": {"story": text}}


def cards(book: Book) -> Iterator[Row]:
    """Yield card payments: most go through, some meet every fault of the sandbox."""
    for index in range(210):
        option = "card.mada" if index % 3 == 0 else "card.visa"
        yield book.row(option, instrument_token="tok_visa")
    for fault, count in CARD_FAULTS.items():
        for _ in range(count):
            yield book.row("card.visa", instrument_token=f"tok_{fault}")
    for told, count in PENDING_CARDS.items():
        for _ in range(count):
            yield book.row("card.visa", instrument_token="tok_pending", **story(told))
    for _ in range(6):
        yield from in_two_parts(book)


def in_two_parts(book: Book) -> Iterator[Row]:
    """Yield two payments that collect one debt together."""
    whole = book.row("card.visa", tenants=("acme-gym",), ending=0, instrument_token="tok_visa")
    due = str(whole["amount"])
    for part, share in enumerate((1, 3), 1):
        minor = int(due.replace(".", "")) * share // 4
        key = f"{whole['payment_id']}-part-{part}"
        yield {**whole, "amount": decimal(minor, "SAR"), "due": due, "idempotency_key": key}


def follow_ups(book: Book) -> Iterator[Row]:
    """Yield what is captured, released or given back, on cards and from wallets, in order."""
    card: Row = {"instrument_token": "tok_visa"}
    for _ in range(6):
        yield from followed(book, "authorize", ("capture", 3), ("refund", 1), **card)
        yield from followed(book, "authorize", ("void", 4), **card)
        yield from followed(book, "charge", ("refund", 2), ("refund", 2), ("refund", 2), **card)
    yield from followed(book, "charge", ("refund", 4), instrument_token="tok_lose_answer")
    for index in range(6):
        payer: Row = {"payer_token": f"wallet-acme-gym-kept-{index}"}
        yield from followed(book, "charge", ("refund", 1), option="wallet.balance", **payer)
        yield from followed(book, "authorize", ("capture", 4), option="wallet.balance", **payer)


def followed(
    book: Book, first: str, *then: tuple[str, int], option: str = "card.visa", **more: object
) -> Iterator[Row]:
    """Yield a payment and what follows it, each of so many quarters of its amount."""
    row = book.row(option, tenants=("acme-gym",), ending=0, operation=first, **more)
    yield row
    minor, parent = int(str(row["amount"]).replace(".", "")), row
    for step, (operation, quarters) in enumerate(then, 1):
        follow: Row = {
            **row,
            "amount": decimal(minor * quarters // 4, "SAR"),
            "operation": operation,
            "idempotency_key": f"{row['payment_id']}-{operation}-{step}",
            "parent_key": parent["idempotency_key"],
        }
        yield follow
        parent = follow if operation == "capture" else parent


def open_banking(book: Book) -> Iterator[Row]:
    """Yield payments that the payer authorizes at their bank."""
    back: Row = {"return_url": "https://billing.example/thanks"}
    for told, count in PAYERS.items():
        for _ in range(count):
            yield book.row("bank.open_banking", tenants=OUTSIDE_JAPAN, **back, **story(told))
    for ending in BANK_FAULTS:
        told = story("the payer approves")
        yield book.row("bank.open_banking", tenants=OUTSIDE_JAPAN, ending=ending, **back, **told)
    for _ in range(4):  # the route takes no yen
        yield book.row("bank.open_banking", tenants=("sakura-school",), **back)


def bank_transfers(book: Book) -> Iterator[Row]:
    """Yield payments for which the payer is given a reference to quote."""
    for told, count in FUNDS.items():
        for _ in range(count):
            yield book.row("bank.transfer", **story(told))


def wallets(book: Book) -> Iterator[Row]:
    """Yield payments from wallets, some for more than is in them."""
    for index in range(70):
        row = book.row("wallet.balance")
        yield {**row, "payer_token": f"wallet-{row['tenant_id']}-{index % 24:02}"}
    for index in range(12):
        row = book.row("wallet.balance")
        amount = decimal(TOO_MUCH, str(row["currency"]))
        token = f"wallet-{row['tenant_id']}-short-{index:02}"
        yield {**row, "amount": amount, "payer_token": token}
    for index in range(3):
        yield book.row("wallet.balance", payer_token=f"nobody-{index}", **story("no such wallet"))
    for index in range(5):
        row = book.row("wallet.balance", operation="authorize")
        yield {**row, "payer_token": f"wallet-{row['tenant_id']}-reserve-{index}"}


def cash(book: Book) -> Iterator[Row]:
    """Yield payments that people confirm; at gulf-power it takes two of them."""
    for told, count in COUNTER.items():
        for _ in range(count):
            yield book.row("cash.counter", tenants=OUTSIDE_JAPAN, **story(told))


def without_route(book: Book) -> Iterator[Row]:
    """Yield payments by options that lead nowhere."""
    for _ in range(5):
        yield book.row("voucher.paper")
    for _ in range(4):
        yield book.row("cash.counter", tenants=("sakura-school",))


def again(rows: list[Row]) -> Iterator[Row]:
    """Yield what comes a second time: the same, with another amount, or under a new key."""
    firsts = [row for row in rows if row.get("instrument_token") == "tok_visa" and "due" not in row]
    lost = [row for row in rows if row.get("instrument_token") == "tok_lose_answer"]
    yield from [*firsts[:16], *lost[:2]]
    yield from [row for row in rows if row["payment_option_key"] == "wallet.balance"][:6]
    for row in firsts[18:30]:
        yield {**row, "amount": plus_one(row)}
    for row in firsts[30:36]:
        yield {**row, "idempotency_key": f"{row['payment_id']}-try-2"}


def plus_one(row: Row) -> str:
    """Return the amount of *row* and one major unit."""
    currency, amount = str(row["currency"]), str(row["amount"])
    return decimal(int(amount.replace(".", "")) + 10 ** EXPONENTS[currency], currency)


def billing_run() -> list[Row]:
    """Return all payments in the order of the file."""
    book = Book()
    parts = (cards, open_banking, bank_transfers, wallets, cash, without_route)
    rows = [row for part in parts for row in part(book)]
    Random(SEED).shuffle(rows)
    middle = len(rows) // 2
    second_half = [*rows[middle:], *again(rows[:middle])]
    Random(SEED + 1).shuffle(second_half)
    return [*rows[:middle], *second_half, *follow_ups(book)]


def main() -> None:
    """Write the file beside this one."""
    rows = billing_run()
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (HERE / "billing-run.jsonl").write_text(text, encoding="utf-8")
    print(f"{len(rows)} payments")


if __name__ == "__main__":
    main()

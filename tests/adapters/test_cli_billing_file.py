"""Reading billing files: bad lines are told, and the rest goes on."""

import json
import runpy
from pathlib import Path

import pytest

from railcore.enums import Operation
from railcore.money import KWD, Money
from railcore_adapters.cli.billing_file import read_billing_file, read_lines

ROOT = Path(__file__).parents[2]
GOOD = {
    "tenant_id": "acme",
    "payment_id": "inv-1",
    "idempotency_key": "inv-1/1",
    "amount": "1.250",
    "currency": "KWD",
    "payment_option_key": "card",
}


def line(**changes: object) -> bytes:
    """Return a good line with *changes*."""
    return json.dumps({**GOOD, **changes}).encode()


def test_a_line_asks_for_a_payment() -> None:
    found = read_lines([line(due="2.500", operation="authorize", metadata={"order": "7"})])

    (read,) = found.lines
    assert read.number == 1
    assert read.context.money == Money(1250, KWD)
    assert read.context.due == Money(2500, KWD)
    assert read.context.operation is Operation.AUTHORIZE
    assert read.context.metadata == {"order": "7"}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (line(amount=1.25), 'amount: wanted a decimal text such as "12.50", found a number'),
        (line(amount="1.2505"), "amount: wanted at most 3 decimal places for KWD"),
        (line(amount="0.000"), "money: wanted an amount above zero"),
        (line(amount="NaN"), "amount: wanted"),
        (line(currency="XXX"), "currency: wanted an active ISO 4217 code"),
        (line(tenant_id=None), "tenant_id: wanted a text, found nothing"),
        (line(operation="chargeback"), "operation: wanted one of charge, authorize"),
        (line(parent_execution_id="7"), "parent_execution_id: wanted the id of an execution"),
        (line(parent_key=7), "parent_key: wanted a text"),
        (line(parent_key="a"), "parent_execution_id: "),
        (
            line(operation="refund", parent_key="a", parent_execution_id="b"),
            "parent_key: wanted this or parent_execution_id, found both",
        ),
        (line(metadata=[1]), "metadata: wanted a mapping"),
        (line(return_url=7), "return_url: wanted a text, found a number"),
        (line(merchant_initiated="yes"), "merchant_initiated: wanted a bool"),
        (line(instrument_tokn="tok_visa"), "instrument_tokn: there is no such field"),
        (b"[1]", "line: wanted one JSON object, found a list"),
        (b'{"amount": "1", "amount": "2"}', "amount: wanted each field once"),
        (b'{"amount": NaN}', "line: wanted JSON as RFC 8259 has it, found NaN"),
        (b"{", "line: wanted one JSON object, found"),
        (b"\xff", "line: wanted UTF-8"),
        (b"[" * 60_000, "line: wanted one JSON object"),
        (b" " + b"x" * 70_000, "line: wanted at most 65536 bytes"),
    ],
)
def test_a_bad_line_is_told_with_its_number_while_the_rest_goes_on(raw: bytes, reason: str) -> None:
    found = read_lines([line(), b"\n", raw, line()])

    assert [one.number for one in found.lines] == [1, 4]
    (bad,) = found.bad_lines
    assert bad.number == 3
    assert bad.reason.startswith(reason)


def test_a_reason_never_holds_a_card_number() -> None:
    card = "4111 1111 1111 1111"

    found = read_lines([line(amount=card), line(instrument_token="4111111111111111")])

    told = " ".join(bad.reason for bad in found.bad_lines)
    assert len(found.bad_lines) == 2
    assert "1111 1111" not in told
    assert "41111111" not in told


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert len(read_lines([b"\xef\xbb\xbf" + line()]).lines) == 1


def test_the_example_is_what_its_program_writes() -> None:
    program = runpy.run_path(str(ROOT / "examples" / "make_billing_run.py"))
    written = "".join(f"{json.dumps(row)}\n" for row in program["billing_run"]())

    assert (ROOT / "examples" / "billing-run.jsonl").read_text() == written


def test_the_example_holds_five_hundred_payments_and_no_bad_line() -> None:
    found = read_billing_file(ROOT / "examples" / "billing-run.jsonl")

    assert not found.bad_lines
    assert len(found.lines) >= 500
    contexts = [one.context for one in found.lines]
    assert {one.money.currency.code for one in contexts} == {"SAR", "AED", "USD", "JPY", "KWD"}
    assert len({one.tenant_id for one in contexts}) >= 3

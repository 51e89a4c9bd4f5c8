import string
from typing import Any
from uuid import UUID

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from railcore.context import PaymentContext, derive_provider_key
from railcore.enums import Operation
from railcore.errors import InvalidValueError
from railcore.money import JPY, SAR, USD, Currency, Money
from tests.core.made import ASKED, ID, context

LIMITS = {
    "tenant_id": 64,
    "payment_id": 128,
    "idempotency_key": 255,
    "payment_option_key": 64,
    "payer_token": 255,
    "instrument_token": 255,
    "contract_id": 128,
    "return_url": 2048,
    "correlation_id": 128,
}
REQUIRED = ["tenant_id", "payment_id", "idempotency_key", "payment_option_key"]
VISIBLE = string.ascii_letters + string.digits + string.punctuation
HOSTILE = [
    "",
    " ",
    "a b",
    "a\x00b",
    "\x00",
    "a\nb",
    "a\tb",
    "key\x7f",
    "\x80",
    "مفتاح",
    "\u202ekey",
    "key\u200b",
    "\ud800",
    "\udfff key",
    "\N{FULLWIDTH LATIN SMALL LETTER K}ey",
    "é",
    "x" * 10_000_000,
    "\x00" * 10_000_000,
    1,
    1.5,
    True,
    b"key",
    ["key"],
    {"key": "value"},
    object(),
]
CARDS = ["4111111111111111", "4111 1111 1111 1111".replace(" ", "-"), "tok-4242424242424242"]
words = st.text(VISIBLE, min_size=1, max_size=20)


def shown(value: object) -> str:
    """Name a case by how it starts and how long it is."""
    text = "an object" if type(value) is object else ascii(value)
    return f"{text[:24]} of {len(text)}"


FOLLOW_UP = {"operation": Operation.REFUND, "parent_execution_id": ID}


@pytest.mark.parametrize("field", LIMITS)
@pytest.mark.parametrize("value", HOSTILE, ids=shown)
def test_a_text_is_visible_ascii_within_its_limit(field: str, value: Any) -> None:
    with pytest.raises(InvalidValueError, match=field):
        context(**{field: value})


@pytest.mark.parametrize(("field", "limit"), LIMITS.items())
def test_a_text_may_have_its_whole_limit(field: str, limit: int) -> None:
    assert getattr(context(**{field: "x" * limit}), field) == "x" * limit


@pytest.mark.parametrize(("field", "limit"), LIMITS.items())
def test_a_text_one_longer_than_its_limit_is_refused(field: str, limit: int) -> None:
    with pytest.raises(InvalidValueError, match=field):
        context(**{field: "x" * (limit + 1)})


@pytest.mark.parametrize("field", REQUIRED)
def test_what_is_required_is_never_none(field: str) -> None:
    with pytest.raises(InvalidValueError, match=field):
        context(**{field: None})


@given(field=st.sampled_from(sorted(LIMITS)), value=st.text(max_size=40))
def test_hi2_any_text_is_kept_or_an_invalid_value(field: str, value: str) -> None:
    is_visible = len(value) >= 1 and all("\x21" <= one <= "\x7e" for one in value)
    try:
        kept = getattr(context(**{field: value}), field)
    except InvalidValueError:
        assert not is_visible or any(one.isdigit() for one in value)
    else:
        assert kept == value
        assert is_visible


@pytest.mark.parametrize("field", ["payer_token", "instrument_token"])
@pytest.mark.parametrize("card", CARDS)
def test_a_card_number_is_no_token(field: str, card: str) -> None:
    with pytest.raises(InvalidValueError, match="card number"):
        context(**{field: card})


@pytest.mark.parametrize("card", CARDS)
def test_a_refused_card_number_is_not_repeated(card: str) -> None:
    with pytest.raises(InvalidValueError) as refused:
        context(instrument_token=card)

    assert card not in str(refused.value)
    assert card[-12:] not in repr(refused.value)


@given(st.uuids(version=4), st.integers(1_600_000_000_000, 1_900_000_000_000))
@example(UUID("8d9c6d35-5555-4444-8444-123456789012"), 1_732_380_000_009)
def test_random_and_dated_keys_are_never_taken_for_cards(random: UUID, milliseconds: int) -> None:
    for key in (str(random), random.hex, f"inv-{milliseconds}", str(milliseconds)):
        assert context(idempotency_key=key, payment_id=key).idempotency_key == key


@pytest.mark.parametrize(
    "money", [12.5, 1250, "12.50 SAR", None, Money(0, SAR), Money(-1, SAR), (1250, SAR)]
)
def test_money_is_an_amount_above_zero(money: Any) -> None:
    with pytest.raises(InvalidValueError, match="money"):
        context(money=money)


@pytest.mark.parametrize("operation", ["charge", "refund", None, 1, "payout"])
def test_an_operation_that_is_only_text_is_refused(operation: Any) -> None:
    with pytest.raises(InvalidValueError, match="operation"):
        context(operation=operation)


@pytest.mark.parametrize("operation", [Operation.CAPTURE, Operation.VOID, Operation.REFUND])
def test_a_follow_up_names_its_parent(operation: Operation) -> None:
    with pytest.raises(InvalidValueError, match="parent_execution_id"):
        context(operation=operation)


@pytest.mark.parametrize("operation", [Operation.CHARGE, Operation.AUTHORIZE])
def test_a_first_operation_has_no_parent(operation: Operation) -> None:
    with pytest.raises(InvalidValueError, match="parent_execution_id"):
        context(operation=operation, parent_execution_id=ID)


@pytest.mark.parametrize("parent", [str(ID), 1, b"x" * 16])
def test_a_parent_is_a_uuid(parent: Any) -> None:
    with pytest.raises(InvalidValueError, match="parent_execution_id"):
        context(operation=Operation.REFUND, parent_execution_id=parent)


@pytest.mark.parametrize("due", [Money(1249, SAR), Money(1250, USD), 1250, "12.50"])
def test_a_debt_is_at_least_what_is_paid_towards_it(due: Any) -> None:
    with pytest.raises(InvalidValueError, match="due"):
        context(due=due)


def test_a_follow_up_sets_no_debt() -> None:
    with pytest.raises(InvalidValueError, match="due"):
        context(**FOLLOW_UP, due=ASKED)


def test_the_debt_is_the_amount_unless_said_otherwise() -> None:
    assert context().due_minor == context(due=ASKED).due_minor == 1250


@pytest.mark.parametrize(
    "metadata",
    [
        {"a": 1},
        {1: "a"},
        {"a": None},
        {"a": "\x00"},
        {"a\x00": "b"},
        {"a": "\ud800"},
        {"a": "\u202eb"},
        {"a": "x" * 4096},
        {"a": "x" * 10_000_000},
        {str(number): "" for number in range(41)},
        [("a", "b")],
        "a=b",
        None,
        1.5,
    ],
    ids=shown,
)
def test_metadata_are_a_few_printable_texts(metadata: Any) -> None:
    with pytest.raises(InvalidValueError, match="metadata"):
        context(metadata=metadata)


def test_metadata_may_be_in_any_language() -> None:
    assert context(metadata={"اسم": "فاتورة 7"}).metadata == {"اسم": "فاتورة 7"}


@pytest.mark.parametrize("card", ["4111111111111111", "4111 1111 1111 1111"])
def test_card_numbers_in_metadata_are_masked(card: str) -> None:
    kept = context(metadata={"note": f"paid by {card}", card: "x"}).metadata

    assert "11111111" not in repr(kept).replace(" ", "")


def test_metadata_cannot_be_changed_afterwards_by_who_gave_them() -> None:
    given_metadata = {"a": "b"}
    made = context(metadata=given_metadata)

    given_metadata["a"] = "\x00"

    assert made.metadata == {"a": "b"}


@pytest.mark.parametrize("flag", [1, 0, "true", None])
def test_a_flag_is_true_or_false(flag: Any) -> None:
    with pytest.raises(InvalidValueError, match="merchant_initiated"):
        context(merchant_initiated=flag)


MOVES: list[dict[str, Any]] = [
    {"money": Money(1251, SAR)},
    {"money": Money(1250, USD)},
    {"money": Money(1250, JPY)},
    {"money": Money(1250, Currency("SAR", 3))},
    {"due": Money(2500, SAR)},
    {"operation": Operation.AUTHORIZE},
    {"payment_id": "inv-2"},
    {"payment_option_key": "card.visa"},
    {"payer_token": "payer_1"},
    {"instrument_token": "tok_1"},
    {"contract_id": "contract-1"},
    {"merchant_initiated": True},
    FOLLOW_UP,
]


@pytest.mark.parametrize("changes", MOVES, ids=shown)
def test_the_fingerprint_tells_apart_what_moves_money(changes: dict[str, Any]) -> None:
    assert context(**changes).fingerprint != context().fingerprint


def test_the_fingerprint_tells_parents_apart() -> None:
    one = context(operation=Operation.REFUND, parent_execution_id=ID)
    other = attrs.evolve(one, parent_execution_id=UUID(int=ID.int + 1))

    assert one.fingerprint != other.fingerprint


def test_the_fingerprint_tells_follow_ups_apart() -> None:
    one = context(operation=Operation.CAPTURE, parent_execution_id=ID)

    assert one.fingerprint != attrs.evolve(one, operation=Operation.VOID).fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": {"a": "b"}},
        {"correlation_id": "trace-1"},
        {"return_url": "https://shop.example/back"},
        {"due": ASKED},
    ],
    ids=shown,
)
def test_the_fingerprint_ignores_what_moves_no_money(changes: dict[str, Any]) -> None:
    assert context(**changes).fingerprint == context().fingerprint


def test_every_field_is_in_the_fingerprint_or_left_out_on_purpose() -> None:
    left_out = {"tenant_id", "idempotency_key", "metadata", "correlation_id", "return_url"}
    tested = {name for changes in MOVES for name in changes}

    assert {one.name for one in attrs.fields(PaymentContext)} == tested | left_out


@pytest.mark.parametrize("changes", MOVES, ids=shown)
def test_differences_are_named(changes: dict[str, Any]) -> None:
    named = set(context(**changes).differences(context()))
    expected = {
        "money": {"amount_minor", "due_minor", "currency", "exponent"},
        "due": {"due_minor"},
    }

    for name in changes:
        assert named & expected.get(name, {name})


def test_equal_requests_have_no_differences() -> None:
    assert context().differences(context(metadata={"a": "b"})) == ()


def test_the_fingerprint_never_changes_from_release_to_release() -> None:
    assert context().fingerprint.hex() == (
        "683ce2b425ed2c2757111e16e55b6699f89d6bb95e374f1b883cc1815bb1cf0b"
    )


def test_the_fingerprint_of_everything_never_changes_from_release_to_release() -> None:
    everything = context(
        operation=Operation.CHARGE,
        due=Money(2500, SAR),
        payer_token="payer_1",
        instrument_token="tok_visa",
        contract_id="contract-1",
        merchant_initiated=True,
    )

    assert everything.fingerprint.hex() == (
        "e29130369915dbf8ced4a8fc9d683c03288f58c61771ba23c97af233874c9d1f"
    )


def test_the_provider_key_never_changes_from_release_to_release() -> None:
    assert context().provider_key == "95c3c387a2f947542584adf9c12310cd"


def test_the_provider_key_of_a_step_never_changes_from_release_to_release() -> None:
    key = derive_provider_key("acme", Operation.CAPTURE, "key-1", "capture")

    assert key == "9fc7f891592bdd9b735452ce6ca390b2"


@given(words, words, words, words)
def test_the_provider_key_has_thirty_two_hexadecimal_characters(
    tenant: str, key: str, step: str, payment: str
) -> None:
    derived = derive_provider_key(tenant, Operation.CHARGE, key, step)

    assert len(derived) == 32
    assert set(derived) <= set("0123456789abcdef")


@given(st.text(VISIBLE, min_size=2, max_size=30), st.integers(1, 29), st.integers(1, 29))
def test_moving_a_character_across_a_field_boundary_gives_another_provider_key(
    text: str, one: int, other: int
) -> None:
    one, other = one % len(text), other % len(text)
    keys = {
        derive_provider_key(text[:at], Operation.CHARGE, text[at:]) for at in {one, other} if at
    }

    assert len(keys) == len({one, other} - {0})


@given(
    st.lists(st.tuples(words, st.sampled_from(Operation), words, words), unique=True, max_size=20)
)
def test_different_requests_have_different_provider_keys(
    requests: list[tuple[str, Operation, str, str]],
) -> None:
    assert len({derive_provider_key(*one) for one in requests}) == len(requests)


def test_quotes_and_brackets_cannot_forge_a_field_boundary() -> None:
    honest = derive_provider_key("a", Operation.CHARGE, "b", "c")

    assert derive_provider_key('a", "charge", "b', Operation.CHARGE, "c") != honest
    assert derive_provider_key("a", Operation.CHARGE, 'b", "c') != honest


def test_the_provider_key_depends_on_nothing_but_tenant_operation_and_key() -> None:
    other = context(money=Money(1, USD), payment_id="inv-9", payment_option_key="bank", due=None)

    assert other.provider_key == context().provider_key

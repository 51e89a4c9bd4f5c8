import pickle
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from railcore.errors import InvalidValueError, MoneyError
from railcore.money import AED, EUR, JPY, KWD, SAR, USD, Currency, Money, minor_units

LARGEST = 2**63 - 1
CURRENCIES = [JPY, SAR, KWD, Currency.of("CLF")]
amounts = st.integers(-LARGEST, LARGEST)
small_amounts = st.integers(-(2**61), 2**61)


class Sneaky:
    def __str__(self) -> str:
        return "SAR"


class Cents(int):
    pass


@pytest.mark.parametrize(
    ("code", "exponent"),
    [
        *[(code, 0) for code in ("JPY", "KRW", "VND", "CLP", "ISK", "XOF")],
        *[(code, 2) for code in ("SAR", "AED", "USD", "EUR", "EGP", "QAR")],
        *[(code, 3) for code in ("KWD", "BHD", "OMR", "JOD", "TND", "IQD", "LYD")],
        *[(code, 4) for code in ("CLF", "UYW")],
    ],
)
def test_exponents_are_those_of_iso_4217(code: str, exponent: int) -> None:
    assert Currency.of(code).exponent == exponent


@pytest.mark.parametrize("code", ["", "sar", "XAU", "SARX", "S R", "SAR\n", "ŚAR", None, 12, []])
def test_an_unknown_code_is_no_currency(code: Any) -> None:
    with pytest.raises(MoneyError, match="ISO 4217"):
        Currency.of(code)


@pytest.mark.parametrize("code", ["sar", "SAR\n", "SARS", "", 123, None, Sneaky(), b"SAR"])
def test_a_code_is_three_capital_letters(code: Any) -> None:
    with pytest.raises(MoneyError, match="three capital letters"):
        Currency(code, 2)


@pytest.mark.parametrize("exponent", [1, 5, -2, True, 2.0, "2", None])
def test_an_exponent_is_0_2_3_or_4(exponent: Any) -> None:
    with pytest.raises(MoneyError, match="0, 2, 3 or 4"):
        Currency("SAR", exponent)


@pytest.mark.parametrize(
    "amount", [12.5, 12.0, float("nan"), True, "1250", Decimal(1250), Fraction(5), None, Cents(5)]
)
def test_only_a_plain_int_is_an_amount(amount: Any) -> None:
    with pytest.raises(MoneyError, match="int of minor units"):
        Money(amount, SAR)


@pytest.mark.parametrize("amount", [2**63, -(2**63), 10**30])
def test_an_amount_that_a_database_cannot_hold_is_refused(amount: int) -> None:
    with pytest.raises(MoneyError, match="63 bits"):
        Money(amount, SAR)


def test_the_largest_amount_is_kept() -> None:
    assert Money(LARGEST, SAR).amount_minor == LARGEST


@pytest.mark.parametrize("currency", ["SAR", None, 2])
def test_a_text_is_no_currency(currency: Any) -> None:
    with pytest.raises(MoneyError, match="a Currency"):
        Money(1, currency)


@given(amounts, st.sampled_from(CURRENCIES))
def test_major_units_and_back_is_the_same_amount(amount: int, currency: Currency) -> None:
    money = Money(amount, currency)

    assert Money.of(money.to_major(), currency) == money


@given(amounts, st.sampled_from(CURRENCIES))
def test_the_text_of_an_amount_reads_back(amount: int, currency: Currency) -> None:
    text = str(Money(amount, currency))

    assert Money.of(text.removesuffix(f" {currency.code}"), currency).amount_minor == amount


@given(amounts, st.sampled_from(CURRENCIES), st.integers(1, 10))
def test_the_precision_of_the_host_rounds_nothing(
    amount: int, currency: Currency, digits: int
) -> None:
    exact = Money(amount, currency).to_major()

    with localcontext(Context(prec=digits)):
        assert Money(amount, currency).to_major().as_tuple() == exact.as_tuple()
        assert str(Money(amount, currency)) == f"{exact:f} {currency}"


@given(small_amounts, small_amounts)
def test_subtraction_undoes_addition(one: int, other: int) -> None:
    assert Money(one, SAR) + Money(other, SAR) - Money(other, SAR) == Money(one, SAR)


@given(small_amounts, small_amounts, st.integers(-(2**60), 2**60))
def test_addition_knows_no_order(one: int, other: int, third: int) -> None:
    first, second, last = Money(one // 2, SAR), Money(other // 2, SAR), Money(third, SAR)

    assert (first + second) + last == last + (second + first)


@given(small_amounts, small_amounts)
def test_order_is_that_of_the_amounts(one: int, other: int) -> None:
    left, right = Money(one, SAR), Money(other, SAR)

    assert (left < right, left <= right, left > right, left >= right) == (
        one < other,
        one <= other,
        one > other,
        one >= other,
    )


@pytest.mark.parametrize(
    "operation", ["__add__", "__sub__", "__lt__", "__le__", "__gt__", "__ge__"]
)
@pytest.mark.parametrize(
    "other", [Money(1, USD), Money(1, AED), Money(1, Currency("SAR", 3)), 1, 1.0, None]
)
def test_currencies_never_meet(operation: str, other: Any) -> None:
    with pytest.raises(MoneyError, match="Money in SAR"):
        getattr(Money(1, SAR), operation)(other)


def test_a_sum_that_is_too_large_is_refused() -> None:
    with pytest.raises(MoneyError, match="63 bits"):
        Money(LARGEST, SAR) + Money(1, SAR)


def test_equal_amounts_of_two_currencies_differ() -> None:
    assert Money(100, SAR) != Money(100, USD)


def test_the_same_amount_with_another_exponent_differs() -> None:
    assert Money(100, SAR) != Money(100, Currency("SAR", 3))


@pytest.mark.parametrize(
    ("text", "currency", "amount"),
    [
        ("12.5", SAR, 1250),
        ("12.50", SAR, 1250),
        ("12.5000000000", SAR, 1250),
        ("-0.01", SAR, -1),
        ("1.250", KWD, 1250),
        ("1250", JPY, 1250),
        ("1250.000", JPY, 1250),
        ("1E+3", JPY, 1000),
        ("0.0", JPY, 0),
        ("92233720368547758.07", SAR, LARGEST),
    ],
)
def test_major_units_are_read_exactly(text: str, currency: Currency, amount: int) -> None:
    assert Money.of(text, currency).amount_minor == amount


@pytest.mark.parametrize(
    ("text", "currency"), [("12.505", SAR), ("0.5", JPY), ("1.2505", KWD), ("1e-3", SAR)]
)
def test_more_decimal_places_than_the_currency_has_are_refused(
    text: str, currency: Currency
) -> None:
    with pytest.raises(MoneyError, match="decimal places"):
        Money.of(text, currency)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "12,50",
        "1 250",
        "1_250",
        "\N{ARABIC-INDIC DIGIT ONE}\N{ARABIC-INDIC DIGIT TWO}",
        "\N{FULLWIDTH DIGIT ONE}",
        "1\x00",
        "\u202e21",
        "\ud800",
        "NaN",
        "sNaN",
        "Infinity",
        "-inf",
        "0x10",
        " 12.50 ",
        "12.50\n",
    ],
)
def test_what_is_no_plain_number_is_refused(text: str) -> None:
    with pytest.raises(MoneyError):
        Money.of(text, SAR)


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    "text",
    [
        "1e999999999",
        "1e-999999999",
        "-1e-999999999999",
        "0e-999999999",
        "0e999999999",
        "9" * 10_000_000,
        "0." + "0" * 10_000_000 + "1",
        "1." + "0" * 5_000,
    ],
    ids=lambda text: f"{text[:20]} of {len(text)}",
)
def test_a_monstrous_number_is_refused_at_once(text: str) -> None:
    with pytest.raises(MoneyError):
        Money.of(text, SAR)


@pytest.mark.timeout(5)
def test_a_monstrous_decimal_is_refused_at_once() -> None:
    with pytest.raises(MoneyError):
        minor_units(Decimal("1e-999999999"), SAR)


@pytest.mark.parametrize("amount", [12.5, 12, True, None, b"13"])
def test_only_a_decimal_or_a_text_is_a_number_of_major_units(amount: Any) -> None:
    with pytest.raises(MoneyError, match="a Decimal or a text"):
        Money.of(amount, SAR)


@given(st.text(max_size=40))
def test_any_text_is_an_amount_or_a_money_error(text: str) -> None:
    try:
        money = Money.of(text, SAR)
    except MoneyError:
        return
    assert Decimal(text) == money.to_major()


@given(st.decimals(allow_nan=True, allow_infinity=True))
def test_any_decimal_is_an_amount_or_a_money_error(amount: Decimal) -> None:
    try:
        minor = minor_units(amount, KWD)
    except MoneyError:
        return
    assert Decimal(minor).scaleb(-3, Context(prec=60)) == amount


def test_a_money_error_is_an_invalid_value() -> None:
    assert issubclass(MoneyError, InvalidValueError)
    assert issubclass(MoneyError, ValueError)


def test_money_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(Money(1250, KWD))) == Money(1250, KWD)


def test_a_money_error_survives_pickling() -> None:
    error = MoneyError("amount", "an int", "a float")

    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@given(amounts)
def test_the_opposite_of_an_amount_is_exact(amount: int) -> None:
    assert (-Money(amount, SAR)).amount_minor == -amount


MISTAKES: dict[str, tuple[Callable[[], object], tuple[str, str, str]]] = {
    "a code in small letters": (
        lambda: Currency("sar", 2),
        ("currency", "three capital letters (ISO 4217)", "'sar'"),
    ),
    "an exponent of one": (
        lambda: Currency("SAR", 1),
        ("exponent", "0, 2, 3 or 4 decimal places", "1"),
    ),
    "a code that nobody uses": (
        lambda: Currency.of("XXX"),
        ("currency", "an active ISO 4217 code", "'XXX'"),
    ),
    "a float of minor units": (
        lambda: Money(cast("Any", 1.0), SAR),
        ("amount_minor", "an int of minor units", "float"),
    ),
    "more than a bigint": (
        lambda: Money(2**63, SAR),
        ("amount_minor", "at most 63 bits", "a larger number"),
    ),
    "a code for a currency": (
        lambda: Money(1, cast("Any", "SAR")),
        ("currency", "a Currency, such as Currency.of('SAR')", "'SAR'"),
    ),
    "a number added": (
        lambda: Money(1, SAR) + cast("Any", 1),
        ("operand", "Money in SAR", "int"),
    ),
    "another currency added": (
        lambda: Money(1, SAR) + Money(1, KWD),
        ("operand", "Money in SAR", "Money in KWD"),
    ),
    "no number": (
        lambda: minor_units(Decimal("NaN"), SAR),
        ("amount", "a finite number of plain size", "NaN"),
    ),
    "places that the currency has not": (
        lambda: Money.of("1.005", SAR),
        ("amount", "at most 2 decimal places for SAR", "1.005"),
    ),
    "a float of major units": (
        lambda: Money.of(cast("Any", 1.5), SAR),
        ("amount", "a Decimal or a text", "float"),
    ),
    "a word": (
        lambda: Money.of("twelve", SAR),
        ("amount", "a decimal number", "'twelve'"),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_what_was_wanted_and_what_came(mistake: str) -> None:
    make, told = MISTAKES[mistake]

    with pytest.raises(MoneyError) as caught:
        make()

    assert (caught.value.field, caught.value.wanted, caught.value.found) == told


@pytest.mark.parametrize(("amount", "is_taken"), [("0" * 120, True), ("0" * 121, False)])
def test_a_text_may_be_so_long(amount: str, *, is_taken: bool) -> None:
    if is_taken:
        assert Money.of(amount, SAR) == Money(0, SAR)
    else:
        with pytest.raises(MoneyError):
            Money.of(amount, SAR)


def test_what_came_is_told_up_to_its_fortieth_character() -> None:
    with pytest.raises(MoneyError) as caught:
        Money.of("x" * 50, SAR)

    assert caught.value.found == repr("x" * 40)


def test_a_number_may_have_so_many_digits_before_and_behind_the_point() -> None:
    assert minor_units(Decimal("9e18"), Currency("CLF", 0)) == 9 * 10**18
    assert minor_units(Decimal("0e-60"), SAR) == 0
    for strange in ("1e19", "0e-61"):
        with pytest.raises(MoneyError, match="plain size"):
            minor_units(Decimal(strange), SAR)


def test_the_named_currencies_are_those_of_their_code() -> None:
    named = (AED, EUR, JPY, KWD, SAR, USD)

    assert [one.code for one in named] == ["AED", "EUR", "JPY", "KWD", "SAR", "USD"]

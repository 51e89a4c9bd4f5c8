import copy
import json
import logging
import pickle
import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from railcore.errors import InvalidValueError
from railcore.redaction import (
    KEPT,
    Secret,
    holds_card_number,
    kept_reference,
    masked,
    masked_reference,
    passes_luhn,
    redacted,
    shown_reference,
    true_reference,
)

CARDS = [
    "4111111111111111",
    "5555555555554444",
    "378282246310005",
    "30569309025904",
    "6011111111111117",
    "3530111333300000",
    "4222222222222",
    "6304000000000000000",
    "9682001111111113",
]
digits = st.text("0123456789", min_size=12, max_size=18)


def with_check_digit(body: str) -> str:
    return next(body + str(last) for last in range(10) if passes_luhn(body + str(last)))


cards = digits.map(with_check_digit)
separators = st.sampled_from(["", " ", "-", "."])


@pytest.mark.parametrize("card", [card for card in CARDS if passes_luhn(card)])
def test_published_test_cards_are_masked(card: str) -> None:
    assert masked(card) == f"{card[:6]}{'*' * (len(card) - 10)}{card[-4:]}"


def test_the_published_test_cards_pass_luhn() -> None:
    assert sum(passes_luhn(card) for card in CARDS) >= 7


@given(cards, separators, st.data())
def test_a_card_number_in_groups_is_masked(card: str, separator: str, data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([4, 5, 6]))
    grouped = separator.join(card[at : at + size] for at in range(0, len(card), size))

    assert grouped not in masked(f"pay with {grouped} now")


@given(cards, st.text("ghxyz_/:,;=()[]{}\"'\n\t", max_size=5))
def test_a_card_number_is_found_in_any_surroundings(card: str, around: str) -> None:
    assert holds_card_number(f"{around}{card}{around}")
    assert card not in masked(f"{around}{card}{around}")


@pytest.mark.parametrize("card", ["4111111111111111", "4111 1111 1111 1111"])
@pytest.mark.parametrize(
    "around", ["{} 12/27", "{} 123", "1 {}", "12-{}", "1.{}", "20260301 {} 99"]
)
def test_numbers_beside_a_card_number_do_not_hide_it(card: str, around: str) -> None:
    text = around.format(card)

    assert holds_card_number(text)
    assert masked(text) == around.format("411111******1111")


@given(cards)
def test_what_is_masked_holds_no_card_number(card: str) -> None:
    assert not holds_card_number(masked(card))


@given(st.text(max_size=60) | st.text("0123456789 -.", min_size=13, max_size=60))
def test_masking_again_changes_nothing(text: str) -> None:
    assert masked(masked(text)) == masked(text)


@given(digits)
def test_a_wrong_check_digit_is_no_card_number(body: str) -> None:
    wrong = next(body + str(last) for last in range(10) if not passes_luhn(body + str(last)))

    assert masked(wrong) == wrong


@pytest.mark.parametrize("text", ["411111111111", "12345678901234567890", "2026-03-01", "1250"])
def test_too_few_or_too_many_digits_are_no_card_number(text: str) -> None:
    assert masked(text) == text


@given(cards)
def test_a_reference_that_is_a_card_number_is_masked(card: str) -> None:
    assert card not in masked_reference(card)


@given(cards, st.sampled_from(["RF", "ch_A", "pay", "X"]))
def test_digits_inside_a_longer_reference_are_kept(card: str, prefix: str) -> None:
    assert masked_reference(f"{prefix}{card}") == f"{prefix}{card}"
    assert masked_reference(f"{card}{prefix}") == f"{card}{prefix}"


@given(st.uuids())
@example(UUID("11111111-1111-1111-a111-000000000000"))
@example(UUID("41111111-1111-1111-a111-000000000000"))
def test_a_uuid_is_a_reference_as_it_is(reference: UUID) -> None:
    assert masked_reference(str(reference)) == str(reference)
    assert masked_reference(reference.hex) == reference.hex or reference.hex.isdigit()
    assert masked(f"charge {reference}") == f"charge {reference}"


nested = st.recursive(
    st.one_of(cards, cards.map(int), st.text(max_size=8), st.integers(), st.none(), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(cards, st.text(max_size=6)), inner, max_size=3),
    ),
    max_leaves=10,
)


def all_texts(value: object) -> list[str]:
    match value:
        case dict():
            return [text for pair in value.items() for one in pair for text in all_texts(one)]
        case list():
            return [text for one in value for text in all_texts(one)]
        case bool() | None:
            return []
        case _:
            return [str(value)]


@given(nested)
def test_hi1_no_card_number_survives_anywhere(value: object) -> None:
    assert not any(holds_card_number(text) for text in all_texts(redacted(value)))


@given(nested)
def test_redacting_again_changes_nothing(value: object) -> None:
    assert redacted(redacted(value)) == redacted(value)


@pytest.mark.parametrize(
    "value",
    [
        4111111111111111,
        4111111111111111.0,
        b"4111111111111111",
        {"4111111111111111"},
        ("4111111111111111",),
        [["4111 1111 1111 1111"]],
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_card_number_of_any_type_is_masked(value: object) -> None:
    assert "1111111" not in json.dumps(redacted({"said": value}))


@pytest.mark.parametrize(
    "name",
    [
        "secret",
        "client_secret",
        "Password",
        "access_token",
        "Authorization",
        "api_key",
        "api-key",
        "apikey",
        "X-Api-Key",
        "cvv",
        "CVC2",
        "pin",
        "track2",
    ],
)
def test_what_is_named_like_a_secret_is_hidden(name: str) -> None:
    assert redacted({name: "hunter2"}) == {name: "***"}
    assert redacted({"deep": [{name: {"value": "hunter2"}}]}) == {"deep": [{name: "***"}]}


@pytest.mark.parametrize("name", ["status", "pinned_at", "shipping", "spinner", "id", "keyboard"])
def test_other_names_are_kept(name: str) -> None:
    assert redacted({name: "value"}) == {name: "value"}


@pytest.mark.parametrize("number", [10**5000, -(10**5000)], ids=["large", "negative"])
def test_a_monstrous_number_becomes_a_short_text(number: int) -> None:
    assert len(json.dumps(redacted(number))) < 50


def test_long_numbers_that_are_no_cards_stay_numbers() -> None:
    assert redacted(1732380000001) == 1732380000001


SECRET = "sk_live_" + "hunter2"


def shown_in_a_log(secret: Secret) -> str:
    record = logging.LogRecord("x", 20, "x", 1, "%s %r", (secret, secret), None)
    return record.getMessage()


def test_a_secret_is_shown_when_asked_for() -> None:
    assert Secret(SECRET).reveal() == SECRET


SHOWN: dict[str, Callable[[Secret], str]] = {
    "str": str,
    "repr": repr,
    "ascii": ascii,
    "format": lambda secret: f"{secret}",
    "format with a width": lambda secret: f"{secret:>20}",
    "percent": lambda secret: "%s" % secret,  # noqa: UP031 - one more way to show it
    "inside others": lambda secret: repr([secret, {"a": secret}]),
    "json": lambda secret: json.dumps({"s": secret}, default=str),
    "redacted": lambda secret: str(redacted({"value": secret})),
    "logged": shown_in_a_log,
}


@pytest.mark.parametrize("way", SHOWN)
def test_cf3_a_secret_shows_itself_nowhere(way: str) -> None:
    assert "hunter2" not in SHOWN[way](Secret(SECRET))


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_secret_is_neither_pickled_nor_copied(take: Any) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        take(Secret(SECRET))


@pytest.mark.parametrize("value", ["", None, 1, b"bytes", True])
def test_a_secret_is_a_text(value: Any) -> None:
    with pytest.raises(InvalidValueError, match="secret"):
        Secret(value)


@given(st.text(min_size=1), st.text(min_size=1))
def test_secrets_are_equal_when_their_values_are(one: str, other: str) -> None:
    assert (Secret(one) == Secret(other)) is (one == other)


@given(st.text(min_size=1))
def test_a_secret_equals_no_text(value: str) -> None:
    assert Secret(value) != value


@given(st.text(min_size=1))
def test_equal_secrets_are_one_in_a_set(value: str) -> None:
    assume(value)

    assert len({Secret(value), Secret(value)}) == 1


def test_a_secret_takes_no_attributes() -> None:
    with pytest.raises(AttributeError):
        Secret(SECRET).other = 1  # type: ignore[attr-defined]


# References ------------------------------------------------------------------------------------

RUNS = re.compile(r"[0-9]{13,}")
GROUPS = re.compile(r"[0-9](?:[ .-]?[0-9]){12,}")
around = st.text("0123456789ab~-. :é", max_size=12)
references = st.one_of(
    st.text(),
    st.builds("{}{}{}".format, around, cards, around),
    cards,
    around.map(KEPT.__add__),
    cards.map(KEPT.__add__),
)


def all_cards(text: str) -> list[str]:
    """Return what a scanner finds that knows no words: runs of digits, in groups or not."""
    found = [one for runs in (RUNS, GROUPS) for one in runs.findall(text)]
    bare = [re.sub(r"[^0-9]", "", one) for one in found]
    return [one for one in bare if 13 <= len(one) <= 19 and passes_luhn(one)]


@given(references)
def test_a_reference_survives_exactly(reference: str) -> None:
    assert true_reference(kept_reference(reference)) == reference


@given(references, references)
def test_no_two_references_are_kept_as_the_same(one: str, other: str) -> None:
    assert (kept_reference(one) == kept_reference(other)) is (one == other)
    assert kept_reference(kept_reference(one)) != one or kept_reference(one) == one


@given(references)
def test_no_reference_shows_a_card_number(reference: str) -> None:
    kept = kept_reference(reference)

    assert not all_cards(kept)
    assert not all_cards(shown_reference(reference))
    assert masked(kept) == kept or not kept.startswith(KEPT)


@given(cards, cards)
def test_the_same_first_and_last_digits_are_no_other_reference(one: str, other: str) -> None:
    assume(one != other)

    assert kept_reference(one) != kept_reference(other)


@pytest.mark.parametrize("reference", ["ch_1", "Überweisung-7", "4111111111111112", ""])
def test_other_references_are_kept_as_they_are(reference: str) -> None:
    assert kept_reference(reference) == reference

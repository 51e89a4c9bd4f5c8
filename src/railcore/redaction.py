"""
Keeping card numbers and secrets out of everything that is stored, logged or announced.

Card numbers are runs of 13 to 19 digits that pass the Luhn check (ISO/IEC 7812-1), alone or with
blanks, dots or dashes between groups, whatever number stands beside them. They are masked to the
first six and the last four digits, which PCI DSS 3.4.1 allows to be shown. UUIDs and long
hexadecimal identifiers are spared: now and then their digits pass the check by chance.

A provider's reference has to find what it names, so it is never masked: where its digits could be a
card's it is *kept* in another spelling, which ``true_reference`` turns back exactly.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Final, NoReturn

from typing_extensions import override

from railcore.errors import InvalidValueError

_IDENTIFIER = (
    r"\b[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b"
    r"|\b(?=\d*[A-Fa-f])[0-9A-Fa-f]{24,}\b"
)
_CANDIDATE = re.compile(rf"{_IDENTIFIER}|(?<!\d)(?P<digits>\d(?:[ .\-]?\d){{12,}})")
_RUN = re.compile(r"\d(?:[ .\-]?\d){12,}")
_GROUP = re.compile(r"\d+")
_HOST = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*")
_LEAST_DIGITS, _MOST_DIGITS = 13, 19
_STANDING_ALONE = re.compile(
    rf"{_IDENTIFIER}|(?<![0-9A-Za-z])(?<!\d[ .\-])(?P<card>\d(?:[ .\-]?\d){{12,18}})"
    r"(?![0-9A-Za-z])(?![ .\-]\d)"
)
_SECRET_NAMES = re.compile(
    r"secret|password|passwd|token|authorization|api[_-]?key|cvv|cvc|pin\b|track[12]", re.IGNORECASE
)
_SHORT = 10**12
_MOST_BITS = 1024
MASK = "***"
KEPT: Final = "railcore~"
"""What a reference begins with that is kept in another spelling."""

_CHUNK: Final = 6


def passes_luhn(digits: str) -> bool:
    """
    Return whether *digits* carries a valid Luhn check digit.

    >>> passes_luhn("4111111111111111"), passes_luhn("4111111111111112")
    (True, False)
    """
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(doubled) + sum(int(digit) for digit in digits[::-2])) % 10 == 0


def holds_card_number(text: str) -> bool:
    """Return whether *text* contains something that could be a card number."""
    runs = (found["digits"] for found in _CANDIDATE.finditer(text))
    return any(run is not None and any(_cards_in(run)) for run in runs)


def masked(text: str) -> str:
    """
    Return *text* with every possible card number masked.

    >>> masked("card 4111 1111 1111 1111 declined")
    'card 411111******1111 declined'
    """
    safe = _CANDIDATE.sub(_mask_unless_spared, text)
    while safe != text:  # what is left of one could be a card number together with what was beside
        text, safe = safe, _CANDIDATE.sub(_mask_unless_spared, safe)
    return safe


def masked_reference(text: str) -> str:
    """
    Return *text*, a provider's reference, masked where a whole word of it could be a card number.

    Digits inside longer words stay, for a reference that is masked by accident finds nothing any
    more.

    >>> masked_reference("RF18539007547034"), masked_reference("4111111111111111")
    ('RF18539007547034', '411111******1111')
    """
    return _STANDING_ALONE.sub(_mask_word, text)


def kept_reference(reference: str) -> str:
    """
    Return *reference* as it is stored and shown: as it is, unless its digits could be a card's.

    Then it begins with ``railcore~``, and a ``~`` parts every six characters; so does what begins
    like that by itself, so that no two references are kept as the same.

    >>> kept_reference("4111111111111111"), kept_reference("pay_4111")
    ('railcore~411111~111111~1111', 'pay_4111')
    """
    runs = (found.group() for found in _RUN.finditer(reference))
    if not reference.startswith(KEPT) and not any(any(_cards_in(run)) for run in runs):
        return reference
    return KEPT + chunked(reference)


def true_reference(kept: str) -> str:
    """
    Return what the provider calls it, of a reference as it is stored, announced or shown.

    >>> true_reference("railcore~411111~111111~1111"), true_reference("pay_4111")
    ('4111111111111111', 'pay_4111')
    """
    return unchunked(kept[len(KEPT) :]) if kept.startswith(KEPT) else kept


def spelt_url(url: str) -> str:
    """
    Return *url* so that no digits behind its host could be a card's: the same one for a server.

    Every sixth digit is percent-encoded (RFC 3986, section 6.2.2.2).

    >>> spelt_url("https://bank.example/pay/4111111111111111")
    'https://bank.example/pay/41111%3111111%311111'
    """
    host = _HOST.match(url)
    start = 0 if host is None else host.end()
    return url[:start] + _RUN.sub(_percent_encoded, url[start:])


def _percent_encoded(found: re.Match[str]) -> str:
    run = found.group()
    if not any(_cards_in(run)):
        return run
    return "".join(
        f"%3{one}" if one.isdigit() and place % _CHUNK == _CHUNK - 1 else one
        for place, one in enumerate(run)
    )


def shown_reference(reference: str | None) -> str:
    """Return the repr of a reference, which shows it as it is kept."""
    return repr(reference if reference is None else kept_reference(reference))


def chunked(text: str) -> str:
    """Return *text* with a ``~`` after every six characters: no digits of it stand together."""
    return "~".join(text[at : at + _CHUNK] for at in range(0, len(text), _CHUNK))


def unchunked(text: str) -> str:
    """Return what ``chunked`` was given."""
    step = _CHUNK + 1
    return "".join(text[at : at + _CHUNK] for at in range(0, len(text), step))


def redacted(value: object) -> object:
    """
    Return *value* as JSON, card numbers masked and what is named like a secret hidden.

    What JSON in a database cannot hold (NUL, lone surrogates, NaN) is replaced; what is no JSON
    becomes text.
    """
    match value:
        case bool() | None:
            return value
        case int() | float():
            return _safe_number(value)
        case Mapping():
            return {_safe_text(str(name)): _under(str(name), one) for name, one in value.items()}
        case list() | tuple():
            return [redacted(inner) for inner in value]
        case _:
            return _safe_text(str(value))


class Secret:
    """
    A credential that shows itself only to ``reveal()``.

    Not in repr, str, format, logs or pickles.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if type(value) is not str or not value:
            raise InvalidValueError("secret", "a non-empty text", "something else")
        self._value = value

    def reveal(self) -> str:
        """Return the credential itself."""
        return self._value

    @override
    def __repr__(self) -> str:
        return f"Secret({MASK})"

    @override
    def __str__(self) -> str:
        return MASK

    @override
    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    @override
    def __hash__(self) -> int:
        return hash((Secret, self._value))

    @override
    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied into another process; load it there")


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def _mask_unless_spared(found: re.Match[str]) -> str:
    return found.group() if found["digits"] is None else _without_cards(found["digits"])


def _without_cards(run: str) -> str:
    """Return groups of digits with those masked that are a card number together."""
    safe, done = list[str](), 0
    for start, stop in _cards_in(run):
        safe += run[done:start], _stars(_digits(run[start:stop]))
        done = stop
    return "".join([*safe, run[done:]])


def _cards_in(run: str) -> Iterator[tuple[int, int]]:
    """
    Yield where groups of digits hold card numbers, each the longest that begins there.

    Numbers beside it (an expiry date, a counter) hide nothing.
    """
    groups, done = [found.span() for found in _GROUP.finditer(run)], 0
    for place, (start, _) in enumerate(groups):
        stops = [stop for _, stop in groups[place : place + _MOST_DIGITS] if start >= done]
        stop = next((stop for stop in reversed(stops) if _is_card(run[start:stop])), None)
        if stop is not None:
            yield start, stop
            done = stop


def _is_card(run: str) -> bool:
    digits = _digits(run)
    return _LEAST_DIGITS <= len(digits) <= _MOST_DIGITS and passes_luhn(digits)


def _mask_word(found: re.Match[str]) -> str:
    digits = _digits(found["card"] or "")
    return _stars(digits) if digits and passes_luhn(digits) else found.group()


def _stars(digits: str) -> str:
    return digits[:6] + "*" * (len(digits) - 10) + digits[-4:]


def _safe_text(text: str) -> str:
    return masked(
        text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    )


def _safe_number(number: float) -> float | str:
    """Return *number*, or a text where it is no number in JSON or could be a card number."""
    if -_SHORT < number < _SHORT:
        return number
    if isinstance(number, int) and number.bit_length() > _MOST_BITS:
        return f"an integer of {number.bit_length()} bits"
    text = masked(f"{number:d}" if isinstance(number, int) else f"{number:f}")
    return number if "*" not in text and math.isfinite(number) else text


def _under(name: str, value: object) -> object:
    return MASK if _SECRET_NAMES.search(name) and value is not None else redacted(value)

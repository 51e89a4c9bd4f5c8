"""
References that people copy by hand: ISO 11649 for transfers, readable ones for a desk.

Both are derived from the provider key, so that every repetition of a request quotes the same one,
and neither can be mistaken for a card number by ``railcore.redaction``: twenty-three digits in a
row are too many, and letters are none.
"""

import re
from typing import Final

from railcore.errors import InvalidValueError

_PAYLOAD: Final = re.compile(r"[A-Z0-9]{1,21}")
_REFERENCE: Final = re.compile(r"RF(?:0[2-9]|[1-8]\d|9[0-8])[A-Z0-9]{1,21}")
_CONSONANTS: Final = "BCDFGHJKMNPQRSTVWXYZ"
"""No vowels, so that no reference spells a word, and no L, which reads like a one."""


def creditor_reference(text: str) -> str:
    """
    Return the ISO 11649 creditor reference of *text*: ``RF``, two check digits, *text* itself.

    Args:
        text: 1 to 21 letters and digits; blanks are left out and letters become capitals.

    Raises:
        InvalidValueError: Nothing, too much, or other characters.

    >>> creditor_reference("5390 0754 7034")
    'RF18539007547034'
    """
    payload = _compact(text)
    if not _PAYLOAD.fullmatch(payload):
        raise InvalidValueError("text", "1 to 21 letters and digits", f"{len(payload)} characters")
    return f"RF{98 - remainder_97(payload + 'RF00'):02}{payload}"


def is_creditor_reference(text: str) -> bool:
    """
    Return whether *text* is an ISO 11649 creditor reference with right check digits.

    Blanks and case do not matter.

    >>> is_creditor_reference("RF18 5390 0754 7034"), is_creditor_reference("RF19 5390 0754 7034")
    (True, False)
    """
    compact = _compact(text)
    return bool(_REFERENCE.fullmatch(compact)) and remainder_97(compact[4:] + compact[:4]) == 1


def remainder_97(text: str) -> int:
    """Return the remainder by 97 of *text* read as ISO 7064 reads it: A is 10, Z is 35."""
    return int("".join(str(int(character, 36)) for character in text)) % 97


def digits_of(provider_key: str) -> str:
    """Return the 21 digits that stand for a provider key in a creditor reference."""
    return f"{int(provider_key, 16) % 10**21:021}"


def readable_reference(provider_key: str) -> str:
    """
    Return four groups of four letters that stand for a provider key on an operator's desk.

    >>> readable_reference("9f86d081884c7d659a2feaa0c55ad015")
    'MS-NVPN-TDNQ-CXCW-KZMX'
    """
    number, letters = int(provider_key, 16), ""
    for _ in range(16):
        number, index = divmod(number, len(_CONSONANTS))
        letters += _CONSONANTS[index]
    return "-".join(("MS", *(letters[at : at + 4] for at in range(0, 16, 4))))


def _compact(text: str) -> str:
    return re.sub(r"\s", "", text).upper()

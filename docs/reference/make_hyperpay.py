"""
Write `hyperpay-codes.md` from the tables of the client.

Run it after a change of those tables: ``python docs/reference/make_hyperpay.py``.
"""

from pathlib import Path

from railcore_adapters.hyperpay.codes import FAMILIES, SINGLE_CODES, Meaning, Outcome

PAGE = Path(__file__).with_name("hyperpay-codes.md")
SAYS = {
    Outcome.SUCCESS: "The money moved, once reference, type, amount and entity are ours.",
    Outcome.REVIEW: "The same, and somebody at the provider looks at it: hold the goods.",
    Outcome.TEST_SUCCESS: "A success of test mode: on a live route a `configuration_error`.",
    Outcome.PENDING: "Pending: the payer or the provider goes on.",
    Outcome.FAILED: "No money moved; the failure code says why.",
    Outcome.UNKNOWN: "Nobody knows: it is looked up until somebody does.",
    Outcome.ABSENT: "A query found nothing, which proves something only when rule R4 says so.",
    Outcome.THROTTLED: "The call was not answered; nothing is known by it.",
    Outcome.NO_PAYMENT: "About something that is no payment; nothing is known by it.",
}


def page() -> str:
    """Return the page."""
    outcomes = "".join(f"| `{one}` | {SAYS[one]} |\n" for one in Outcome)
    families = "".join(
        f"| {number} | {one.name} | `{_pattern(one.pattern.pattern)}` | {_meaning(one.meaning)} |\n"
        for number, one in enumerate(FAMILIES, 1)
    )
    singles = "".join(
        f"| `{code}` | {_meaning(meaning)} |\n" for code, meaning in sorted(SINGLE_CODES.items())
    )
    return f"""# HyperPay's result codes

`python docs/reference/make_hyperpay.py` writes this page from the tables that `railcore_adapters.hyperpay.classify` goes by, and a test compares them.

| Outcome | What it says |
|---|---|
{outcomes}
## Single codes

They are looked for first: each means something else than its family.

| Code | Meaning |
|---|---|
{singles}
## Families

The first that a code begins with decides.
A code of no family is unknown, never a failure.

| | Family | Begins with | Meaning |
|---|---|---|---|
{families}"""


def _meaning(meaning: Meaning) -> str:
    return f"`{meaning.outcome}`" if meaning.failure is None else f"`{meaning.failure}`"


def _pattern(pattern: str) -> str:
    return pattern.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())

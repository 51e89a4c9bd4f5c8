"""
Write `states.md` and `failure-codes.md` from the tables in the code.

Run it after a change of those tables: ``python docs/reference/make_states.py``.
"""

from pathlib import Path

from railcore.enums import ExecutionStatus, PendingReason
from railcore.failures import UNKNOWN_CAUSES, PaymentFailureCode
from railcore.lifecycle import ABSENT, REASON_RANK, TRANSITIONS, DiscrepancyKind

HERE = Path(__file__).parent
ADVICE = (
    "`python docs/reference/make_states.py` writes this page, and a test compares it with the code."
)
WAITS_FOR = {
    PendingReason.OUTCOME_UNKNOWN: "railcore: it asks the provider again, for ever",
    PendingReason.CUSTOMER_ACTION: "the payer: a redirect, a form, a QR code",
    PendingReason.AWAITING_FUNDS: "the payer's bank: a transfer that quotes a reference",
    PendingReason.PROVIDER_PROCESSING: "the provider",
    PendingReason.MANUAL_REVIEW: "a person",
}


def states() -> str:
    """Return the page of states."""
    edges = "".join(
        f"    {'[*]' if before == ABSENT else before} --> {after}\n"
        for before, afters in TRANSITIONS.items()
        for after in sorted(afters)
    )
    ends = "".join(f"    {one} --> [*]\n" for one in ExecutionStatus if one.is_terminal)
    reasons = "".join(
        f"| {rank} | `{reason}` | {WAITS_FOR[reason]} |\n"
        for reason, rank in sorted(REASON_RANK.items(), key=lambda pair: pair[1])
    )
    kinds = "".join(
        f"- `{kind}`{'' if kind.needs_review else ' (a note: no money is in doubt)'}\n"
        for kind in DiscrepancyKind
    )
    return f"""# States

{ADVICE}

```mermaid
stateDiagram-v2
{edges}{ends}```

`completed` and `failed` are terminal: the row never changes again, and the database refuses to change it.

## Pending, and who it waits for

News of a higher rank replaces news of a lower one, whatever arrives first.

| Rank | Reason | Waits for |
|---|---|---|
{reasons}
## Discrepancies

News that contradicts what is known is stored and announced beside the execution.

{kinds}"""


def failure_codes() -> str:
    """Return the page of failure codes."""
    rows = "".join(
        f"| `{code}` | {code.category} | {code.certainty} | {code.advice} "
        f"| {'yes' if code.allows_failover else 'no'} | `{code.message_key}` |\n"
        for code in PaymentFailureCode
    )
    causes = ", ".join(f"`{code}`" for code in PaymentFailureCode if code in UNKNOWN_CAUSES)
    return f"""# Failure codes

{ADVICE}

Sixteen codes in four categories say why money did not move.
An *ambiguous* code proves nothing: it is never the reason of a failure, only the cause of an unknown outcome.
The causes of an unknown outcome are {causes}.
The message key names a text that a payer may read.

| Code | Category | Certainty | Advice | Failover | Message key |
|---|---|---|---|---|---|
{rows}"""


PAGES = {"states.md": states, "failure-codes.md": failure_codes}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page())

"""The tables that people read, at any width, in a terminal or in a log."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from railcore.enums import ExecutionStatus, Operation, PaymentRail, PendingReason
from railcore.failures import Advice
from railcore_adapters.cli.accounting import Promise
from railcore_adapters.cli.summary import BROKEN, SETTLED, Group, Summary

LOG_WIDTH: Final = 100
_MOST_TOLD: Final = 10
_MOST_COLUMNS: Final = 5

_RAILS: Final[Mapping[str, str]] = {
    PaymentRail.CARD_PSP: "Cards",
    PaymentRail.OPEN_BANKING_PIS: "Open banking",
    PaymentRail.BANK_TRANSFER: "Transfers",
    PaymentRail.WALLET: "Wallets",
    PaymentRail.MANUAL_SETTLEMENT: "Cash desk",
}
_REASONS: Final[Mapping[PendingReason | None, tuple[str, str]]] = {
    PendingReason.CUSTOMER_ACTION: ("awaits payer", "the payer, who has to approve at their bank"),
    PendingReason.AWAITING_FUNDS: ("awaits funds", "the payer's transfer, and whoever finds it"),
    PendingReason.MANUAL_REVIEW: ("awaits desk", "an operator, who has to confirm or reject"),
    PendingReason.PROVIDER_PROCESSING: ("at provider", "the provider, which is not done with it"),
    PendingReason.OUTCOME_UNKNOWN: ("unknown", "nobody: railcore asks the provider again"),
    None: ("in progress", "nobody: once its lease runs out, railcore asks"),
}
_ADVICE: Final[Mapping[Advice, str]] = {
    Advice.RETRY_LATER: "Nothing was taken. Try again later, under a new key.",
    Advice.LOOK_UP: "Being looked up.",
    Advice.USE_ANOTHER_INSTRUMENT: "Nothing was taken. The payer needs another way to pay.",
    Advice.FIX_CONFIGURATION: "Nothing was taken. Somebody has to mend the set-up.",
    Advice.INVESTIGATE: "Nothing was taken. Somebody has to look into it.",
}
_REFUSALS: Final[Mapping[str, str]] = {
    "idempotency_conflict": "The key was used before, with another amount or payment.",
    "route_not_found": "No route is configured for this way to pay.",
    "unsupported_operation": "The route does not take this currency, amount or operation.",
    "live_execution_exists": "The debt is paid, or being paid, under another key.",
    "limit_exceeded": "More than is authorized or captured.",
    "currency_mismatch": "The payment is held in another currency.",
    "in_doubt": "What becomes of another payment decides. Ask again later.",
    "execution_not_found": "There is no such execution to follow up.",
}


def make_console(*, to_stderr: bool = False) -> Console:
    """Return a console that is as wide as the terminal, and 100 columns wide in a log."""
    console = Console(stderr=to_stderr, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(stderr=to_stderr, highlight=False, emoji=False, width=LOG_WIDTH)
    return console


def show(console: Console, summary: Summary) -> None:
    """Print what *summary* holds, the verdict last."""
    tables = [_rails(summary)]
    if summary.failures:
        tables.append(_failures(summary))
    if summary.refusals:
        tables.append(_refusals(summary))
    if summary.open_groups:
        tables.append(_open(summary))
    for table in tables:
        console.print()
        console.print(table)
    console.print()
    show_bad_lines(console, summary)
    console.print(_answers(summary))
    console.print()
    console.print(_promises(summary, has_ticks=console.encoding.startswith("utf")))
    console.print()
    console.print(verdict(summary))


def show_bad_lines(console: Console, summary: Summary) -> None:
    """Print the lines that could not be read or answered, each with its number and the reason."""
    troubled = [one for one in summary.answers if one.trouble is not None]
    told = [
        *((bad.number, bad.reason) for bad in summary.bad_lines),
        *((one.line.number, one.trouble) for one in troubled),
    ]
    for number, reason in told:
        console.print(Text.assemble((f"line {number}: ", "bold red"), str(reason)))


def _promises(summary: Summary, *, has_ticks: bool) -> Table:
    """Return each promise with a tick or a cross, what was looked at, and what breaks it."""
    marks = ("✔", "✘") if has_ticks else ("ok", "BROKEN")
    table = _table("Promises", "")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("")
    table.show_header = False
    for promise in summary.promises:
        mark, style = (marks[0], "green") if promise.is_kept else (marks[1], "bold red")
        looked_at = Text(f"{promise.count:,} {promise.unit}", "dim")
        table.add_row(Text(mark, style), looked_at, _with_reasons(promise))
    return table


def _with_reasons(promise: Promise) -> Text:
    told = Text(promise.text)
    for reason in promise.broken[:_MOST_TOLD]:
        told.append(f"\n{reason}", "red")
    if len(promise.broken) > _MOST_TOLD:
        told.append(f"\nand {len(promise.broken) - _MOST_TOLD} more", "red")
    return told


def verdict(summary: Summary) -> Text:
    """Return one sentence on the whole."""
    promises = len(summary.promises)
    if summary.exit_status == BROKEN:
        broken = sum(not promise.is_kept for promise in summary.promises)
        return Text(f"{broken} of {promises} promises are broken.", "bold red")
    kept = f"All {promises} promises kept, in {summary.took_s:.1f} s"
    if summary.exit_status == SETTLED:
        return Text(f"{kept}.", "bold green")
    return Text.assemble((f"{kept}; ", "bold green"), (f"{_attention(summary)}.", "yellow"))


def _attention(summary: Summary) -> str:
    refused = sum(len(answers) for answers in summary.refusals.values())
    counted = {
        "line could not be read|lines could not be read": len(summary.bad_lines),
        "line was refused|lines were refused": refused,
        "payment is in doubt|payments are in doubt": summary.in_doubt,
    }
    said = [f"{n} {words.split('|')[n != 1]}" for words, n in counted.items() if n]
    return " and ".join(said)


def _rails(summary: Summary) -> Table:
    codes = sorted({code for group in summary.groups for code in group.amounts})
    columns = codes if len(codes) <= _MOST_COLUMNS else ["Amounts"]
    table = _table("Payments by rail and status", "Rail", "Status")
    for column in ("Count", *columns):
        table.add_column(column, justify="right", no_wrap=True)
    last = None
    for group in summary.groups:
        if last not in {None, group.rail}:
            table.add_section()
        rail = "" if group.rail == last else _RAILS.get(group.rail, group.rail)
        table.add_row(rail, _status(group), f"{group.count:,}", *_amounts(group, codes, columns))
        last = group.rail
    return table


def _of(group: Group) -> str:
    """Return which operation it is, where it is not simply a charge."""
    return "" if group.operation is Operation.CHARGE else f"{group.operation} "


def _status(group: Group) -> Text:
    match group.status:
        case ExecutionStatus.COMPLETED:
            return Text(f"{_of(group)}completed", "green")
        case ExecutionStatus.FAILED:
            return Text(f"{_of(group)}failed", "red")
        case _:
            return Text(f"{_of(group)}{_REASONS[group.reason][0]}", "yellow")


def _amounts(group: Group, codes: Sequence[str], columns: Sequence[str]) -> list[str]:
    told = {code: f"{money.to_major():,f}" for code, money in group.money.items()}
    if columns != codes:
        return ["\n".join(f"{amount} {code}" for code, amount in told.items())]
    return [told.get(code, "") for code in codes]


def _failures(summary: Summary) -> Table:
    table = _table("Failed, by code: no money moved", "Code")
    table.add_column("Count", justify="right")
    table.add_column("What to do")
    for code, count in summary.failures.items():
        table.add_row(code.value, f"{count:,}", _ADVICE[code.advice])
    return table


def _refusals(summary: Summary) -> Table:
    table = _table("Refused before anything was sent", "Why")
    table.add_column("Lines", justify="right")
    table.add_column("What it means")
    for kind, answers in summary.refusals.items():
        numbers = ", ".join(str(answer.line.number) for answer in answers[:_MOST_TOLD])
        more = ", ..." if len(answers) > _MOST_TOLD else ""
        meaning = f"{_REFUSALS.get(kind, '')}\nLines {numbers}{more}"
        table.add_row(kind, f"{len(answers):,}", meaning)
    return table


def _open(summary: Summary) -> Table:
    table = _table("Still open", "Rail", "Why")
    table.add_column("Count", justify="right")
    table.add_column("Waits for")
    table.add_column("Looked at next")
    for group in summary.open_groups:
        why, who = _REASONS[group.reason]
        when = _when(group, summary.books.read_at)
        rail = _RAILS.get(group.rail, group.rail)
        table.add_row(rail, f"{_of(group)}{why}", f"{group.count:,}", who, when)
    return table


def _when(group: Group, now: datetime) -> str:
    if group.next_check_at is None:
        return "never"
    first, last = (_in(moment, now) for moment in group.next_check_at)
    return first if first == last else f"{first} to {last}"


def _in(moment: datetime, now: datetime) -> str:
    left_s = (moment - now).total_seconds()
    for unit_s, name in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left_s >= unit_s:
            return f"in {left_s / unit_s:.0f} {name}"
    return "now"


def _answers(summary: Summary) -> Text:
    answered = len(summary.answers)
    executed = sum(one.execution is not None for one in summary.answers)
    refused = sum(one.refusal is not None for one in summary.answers)
    bad = len(summary.bad_lines)
    known = f", {summary.repeats:,} of them known already and not sent again"
    payments = f"{executed:,} of {answered + bad:,} lines are payments"
    said = [payments + (known if summary.repeats else "")]
    if refused:
        said.append(f"{refused:,} were refused")
    if bad:
        said.append(f"{bad:,} could not be read")
    told = "; ".join(said) + "."
    if found := summary.books.discrepancies:
        words = "1 contradiction" if found == 1 else f"{found:,} contradictions"
        told += f"\n{words} (another amount, a second answer) changed nothing; kept for review."
    return Text(told)


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in columns:
        table.add_column(column)
    return table

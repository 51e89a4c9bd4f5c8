"""
The commands. Each imports what it needs when it is called, so that ``--help`` is quick.

Exit statuses: 0 settled or waiting for people or the provider, 1 some lines need attention, 2 the
command could not start, 3 a promise is broken, 130 interrupted.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Never

import click

from railcore.errors import RailcoreError

if TYPE_CHECKING:
    from uuid import UUID

    from rich.console import Console
    from sqlalchemy import Connection

    from railcore_adapters.cli.summary import Summary
    from railcore_adapters.observers import LoggingObserver

URL_VARIABLE: Final = "RAILCORE_DATABASE_URL"
_INSTALL: Final = "pip install 'railcore[cli]'"
_COULD_NOT_START: Final = 2
_INTERRUPTED: Final = 130
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)

_EXIT_STATUSES: Final = """\b
Exit status:
  0    every line is settled, or waits for the payer, an operator or the provider
  1    a line could not be read or was refused, or a payment is still in doubt
  2    it could not start, and nothing was done
  3    a promise is broken
  130  interrupted; run it again"""

_DOCTOR_STATUSES: Final = """\b
Exit status:
  0  all is well
  1  something is wrong
  2  it could not look, or not at everything, and found nothing wrong in the rest"""

_at_once = click.option(
    "--at-once",
    type=click.IntRange(1, 1000),
    default=64,
    show_default=True,
    help="How many payments are in flight.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="railcore")
def main() -> None:
    """Take money over very different rails, so that no answer, late or lost or twice, costs any."""


@main.command()
@click.option(
    "--database-url",
    envvar=URL_VARIABLE,
    help="A server on which it may create a database of its own. By default a private one.",
)
@click.option("--file", type=_FILE, help="Another billing file.")
@click.option("--routes", type=_FILE, help="Another configuration.")
@_at_once
@_as_json
def demo(
    *,
    database_url: str | None,
    file: Path | None,
    routes: Path | None,
    at_once: int,
    as_json: bool,
) -> None:
    """
    Execute a month of billing against a provider that fails on purpose, and account for it.

    Everything it needs is started with it and ends with it. The refusals in it are meant to be: the
    exit status is 0 when every promise is kept, and 3 when one is broken.
    """
    with _starting():
        from railcore_adapters.cli.demo import Demo
        from railcore_adapters.cli.example_files import example
        from railcore_adapters.cli.report import make_console
        from railcore_adapters.cli.summary import BROKEN

        played = Demo(
            file=file or example("billing-run.jsonl"),
            routes=routes or example("routes.toml"),
            database_url=database_url,
            at_once=at_once,
            console=make_console(to_stderr=as_json),
        )
        summary = played.play()
    status = BROKEN if summary.exit_status == BROKEN else 0
    _end(summary, status, played.console, as_json=as_json)


@main.command(epilog=_EXIT_STATUSES)
@click.argument("file", type=_FILE)
@click.option("--routes", type=_FILE, required=True, help="Routes and bank accounts, as TOML.")
@click.option(
    "--database-url",
    envvar=URL_VARIABLE,
    required=True,
    help=f"A database with the schema installed. By default {URL_VARIABLE}.",
)
@click.option("--stub-url", envvar="RAILCORE_STUB_URL", help="The sandbox, for provider stub.")
@click.option(
    "--lease-s",
    type=click.FloatRange(0.5, 3600),
    default=60.0,
    show_default=True,
    help="For how long nobody else may act on a payment that this run is calling for.",
)
@click.option(
    "--settle-s",
    type=click.FloatRange(0, 86_400),
    help="For how long to look at what is in doubt. By default the lease and 15 s.",
)
@_at_once
@_as_json
@click.option("--log", "is_logging", is_flag=True, help="Log every call and outcome to stderr.")
def run(
    *,
    file: Path,
    routes: Path,
    database_url: str,
    stub_url: str | None,
    lease_s: float,
    settle_s: float | None,
    at_once: int,
    as_json: bool,
    is_logging: bool,
) -> None:
    """
    Execute the billing file FILE, one JSON object a line, and account for it.

    Run it again as often as you like, also after a crash: the same keys are never charged twice.
    Credentials come from the environment, as RAILCORE_SECRET_<PROVIDER>_<ACCOUNT>.
    """
    with _starting():
        from railcore_adapters.cli.report import make_console
        from railcore_adapters.cli.run import RunFile

        asked = RunFile(
            file=file,
            routes=routes,
            database_url=database_url,
            stub_url=stub_url,
            lease_s=lease_s,
            settle_s=settle_s,
            at_once=at_once,
            console=make_console(to_stderr=as_json),
            observer=_log() if is_logging else None,
        )
        summary = asked.carry_out()
    _end(summary, summary.exit_status, asked.console, as_json=as_json)


@main.command()
@click.option("--routes", type=_FILE, required=True, help="Routes and bank accounts, as TOML.")
@click.option("--database-url", envvar=URL_VARIABLE, required=True)
@click.option("--stub-url", envvar="RAILCORE_STUB_URL", help="The sandbox, for provider stub.")
@click.option(
    "--duty",
    "duties",
    type=click.Choice(["send", "check", "apply", "relay", "expire"]),
    multiple=True,
    help="What to do; may be repeated. By default everything that there is something for.",
)
@click.option("--once", is_flag=True, help="Do what is due now, and end.")
@click.option("--lease-s", type=click.FloatRange(0.5, 3600), default=60.0, show_default=True)
@click.option(
    "--first-check-s",
    type=click.FloatRange(0.1, 86_400),
    default=15.0,
    show_default=True,
    help="When an open payment is looked at again first; the wait doubles up to a day.",
)
@click.option("--at-once", type=click.IntRange(1, 1000), default=16, show_default=True)
@click.option(
    "--per-second",
    type=click.FloatRange(0.01, 10_000),
    default=50.0,
    show_default=True,
    help="How many payments of one provider account this process takes up a second.",
)
@click.option(
    "--recovery-since",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z"]),
    help="The database was restored or failed over then: look up what is older before sending it.",
)
@click.option("--print-events", is_flag=True, help="Relay events to the terminal.")
@click.option("--log", "is_logging", is_flag=True, help="Log every call and outcome to stderr.")
def worker(
    *,
    routes: Path,
    database_url: str,
    stub_url: str | None,
    duties: tuple[str, ...],
    once: bool,
    lease_s: float,
    first_check_s: float,
    at_once: int,
    per_second: float,
    recovery_since: "datetime | None",
    print_events: bool,
    is_logging: bool,
) -> None:
    """
    Send what was enqueued, look up what is open, and relay events, until SIGTERM.

    Events go where the table [events] of the configuration says. Run as many as you like. One that
    dies loses nothing: another takes over when its leases end.
    """
    with _starting():
        from railcore_adapters.cli.report import make_console
        from railcore_adapters.cli.worker import WorkerProcess
        from railcore_adapters.worker import Duty

        process = WorkerProcess(
            routes=routes,
            database_url=database_url,
            stub_url=stub_url,
            duties=tuple(map(Duty, duties)) or None,
            once=once,
            lease_s=lease_s,
            first_check_s=first_check_s,
            at_once=at_once,
            per_second=per_second,
            recovery_since=recovery_since,
            is_printing=print_events,
            console=make_console(to_stderr=True),
            observer=_log() if is_logging else None,
        )
        done = process.carry_out()
    if done is not None:
        click.echo(f"{done:,} pieces of work done.")


@main.command()
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8700, show_default=True, help="0: any free."
)
@click.option("--with-database", is_flag=True, help="Start a private PostgreSQL as well.")
def sandbox(*, port: int, with_database: bool) -> None:
    """
    Serve a fake provider and a fake bank until Ctrl-C, and print what `railcore run` needs of them.

    Everything ends with it, the private database and all that is in it included.
    """
    with _starting():
        from railcore_adapters.cli.trial import serve

        serve(port, with_database=with_database)


_routes_of_desk = click.option(
    "--routes", type=_FILE, envvar="RAILCORE_ROUTES", required=True, help="The configuration."
)
_tenant = click.option("--tenant", "tenant_id", help="Whose; needed where two have the same id.")


@main.group()
def review() -> None:
    """List what people have to look at, and resolve it."""


@review.command(name="list")
@click.option("--database-url", envvar=URL_VARIABLE, required=True)
@click.option("--tenant", "tenant_id", help="Of one tenant alone.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--all", "every", is_flag=True, help="What is resolved already as well.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def list_(
    *, database_url: str, tenant_id: str | None, limit: int, every: bool, as_json: bool
) -> None:
    """List discrepancies, and payments that wait for a person; the oldest first."""
    with _starting():
        from railcore_adapters.cli import review as people
        from railcore_adapters.cli.report import make_console

        found = people.find(database_url, tenant_id, limit, every=every)
        if as_json:
            click.echo(json.dumps(people.as_json(found), indent=2))
        else:
            people.show(make_console(to_stderr=False), found)


@review.command()
@click.argument("discrepancy_id", type=click.UUID)
@click.option(
    "--as",
    "remedy",
    type=click.Choice(["accepted", "adopt", "refund"]),
    required=True,
    help="Nothing to do; book the money; or book it and give it back.",
)
@click.option("--actor", required=True, help="Who decides.")
@click.option("--evidence", required=True, help="What it rests on: a statement line, a ticket.")
@click.option("--received", help="How much came, where it is not known: 12.50 SAR.")
@click.option("--database-url", envvar=URL_VARIABLE, required=True)
@_routes_of_desk
@click.option("--stub-url", envvar="RAILCORE_STUB_URL", help="The sandbox, for provider stub.")
@_tenant
@click.option("--json", "as_json", is_flag=True, help="Print what became of it as JSON.")
def resolve(
    *,
    discrepancy_id: "UUID",
    remedy: str,
    actor: str,
    evidence: str,
    received: str | None,
    database_url: str,
    routes: Path,
    stub_url: str | None,
    tenant_id: str | None,
    as_json: bool,
) -> None:
    """End the discrepancy DISCREPANCY_ID, once and for ever. The same again changes nothing."""
    with _starting():
        import asyncio

        from railcore.ports import OperatorDecision
        from railcore.review import Remedy
        from railcore_adapters.cli import review as people
        from railcore_adapters.cli.desk import Desk, money_of

        asked = people.Resolve(
            desk=Desk(
                routes=routes,
                database_url=database_url,
                stub_url=stub_url,
                is_sending=remedy == Remedy.REFUND,
            ),
            discrepancy_id=discrepancy_id,
            tenant_id=tenant_id,
            remedy=Remedy(remedy),
            decision=OperatorDecision(actor=actor, evidence=evidence, received=money_of(received)),
        )
        noted = asyncio.run(asked.carry_out())
        told = people.one_as_json(noted)
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    made = told["resolving_execution_id"]
    by = f"{told['resolution']} by {told['resolved_by']}"
    click.echo(f"Resolved: {by}." + (f" See execution {made}." if made else ""))


@main.command()
@click.argument("execution_id", type=click.UUID)
@click.option("--database-url", envvar=URL_VARIABLE, required=True)
@_routes_of_desk
@_tenant
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def explain(
    *,
    execution_id: "UUID",
    database_url: str,
    routes: Path,
    tenant_id: str | None,
    as_json: bool,
) -> None:
    """Tell the story of EXECUTION_ID: asked, sent, known, in doubt, and what happens next."""
    with _starting():
        import asyncio

        from railcore_adapters.cli.desk import Desk
        from railcore_adapters.cli.explain import Explain

        desk = Desk(routes=routes, database_url=database_url)
        asked = Explain(desk=desk, execution_id=execution_id, tenant_id=tenant_id)
        story = asyncio.run(asked.carry_out())
    click.echo(json.dumps(story.json(), indent=2) if as_json else story.text())


@main.group()
def webhooks() -> None:
    """List webhook deliveries that wait for a person, and apply some again."""


@webhooks.command(name="parked")
@click.option("--database-url", envvar=URL_VARIABLE, required=True)
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
def parked(*, database_url: str, limit: int) -> None:
    """Print what nobody could apply, one JSON object a line, the oldest first."""
    with _starting():
        from railcore_adapters.cli import webhooks as inbox

        for one in inbox.parked(database_url, limit):
            click.echo(json.dumps(inbox.as_json(one)))


@webhooks.command()
@click.argument("what", metavar="ID|SINCE")
@click.option("--database-url", envvar=URL_VARIABLE, required=True)
def replay(*, what: str, database_url: str) -> None:
    """
    Let workers apply an event again: that of the id ID, or all that came since the date SINCE.

    News that is known already changes nothing, so it is safe to replay too much.
    """
    with _starting():
        from railcore_adapters.cli import webhooks as inbox

        count = inbox.replay(database_url, what)
    click.echo(f"{count} deliveries are due again.")
    if not count:
        sys.exit(1)


@main.group()
def events() -> None:
    """List payments whose events no sink takes, let them go on, and deliver events again."""


@events.command(name="parked")
@click.option("--database-url", envvar=URL_VARIABLE, required=True)
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
def parked_events(*, database_url: str, limit: int) -> None:
    """Print payments that wait for a person, one JSON object a line, the longest parked first."""
    with _starting():
        from railcore_adapters.cli.events import as_json, open_outbox

        with open_outbox(database_url) as outbox:
            for one in outbox.parked(limit):
                click.echo(json.dumps(as_json(one)))


@events.command()
@click.argument("tenant")
@click.argument("payment")
@click.option("--database-url", envvar=URL_VARIABLE, required=True)
def unpark(*, tenant: str, payment: str, database_url: str) -> None:
    """Let a parked PAYMENT of TENANT go on at the event where it stopped."""
    with _starting():
        from railcore_adapters.cli.events import open_outbox

        with open_outbox(database_url) as outbox:
            was_parked = outbox.unpark(tenant, payment)
    click.echo("It goes on." if was_parked else "No such payment is parked.")
    if not was_parked:
        sys.exit(1)


@events.command(name="replay")
@click.argument(
    "since", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"])
)
@click.option("--database-url", envvar=URL_VARIABLE, required=True)
def replay_events(*, since: datetime, database_url: str) -> None:
    """Deliver every event since SINCE again, under the same ids; local time without a zone."""
    with _starting():
        from railcore_adapters.cli.events import replay as replayed

        count = replayed(database_url, since)
    click.echo(f"{count} events will be delivered again.")


@main.command(epilog=_DOCTOR_STATUSES)
@click.option("--database-url", envvar=URL_VARIABLE, required=True)
@click.option("--routes", type=_FILE, envvar="RAILCORE_ROUTES", help="Look at this as well.")
@click.option(
    "--lease-s",
    type=click.FloatRange(0.5, 3600),
    default=60.0,
    show_default=True,
    help="What workers and hosts are started with.",
)
@click.option("--connections", type=click.IntRange(1), help="How many all processes may hold.")
@click.option("--tenant", "tenant_id", help="Look at the rows of one tenant alone.")
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]),
    help="Look only at payments that had news since; local time without a zone.",
)
@click.option(
    "--overdue-s",
    type=click.FloatRange(0),
    default=900.0,
    show_default=True,
    help="How late work may be before it is told.",
)
@click.option(
    "--review-s",
    type=click.FloatRange(0),
    default=259_200.0,
    show_default=True,
    help="How long a contradiction may wait for a person.",
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option(
    "--timeout-s",
    type=click.FloatRange(0.001, 3600),
    default=60.0,
    show_default=True,
    help="How long one question to the database may take.",
)
@click.option("--roles/--no-roles", default=True, show_default=True, help="Look at roles.")
@click.option("--relay/--no-relay", default=True, show_default=True, help="Whether one should run.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def doctor(
    *,
    database_url: str,
    routes: Path | None,
    lease_s: float,
    connections: int | None,
    tenant_id: str | None,
    since: datetime | None,
    overdue_s: float,
    review_s: float,
    limit: int,
    timeout_s: float,
    roles: bool,
    relay: bool,
    as_json: bool,
) -> None:
    """
    Look whether a database and its settings are as they have to be, and name what is not.

    Changes nothing, and is safe in production: one read-only transaction, a time limit for each
    question. The role railcore_reader is enough.
    """
    with _starting():
        from railcore_adapters.cli import doctor as looking
        from railcore_adapters.cli.report import make_console
        from railcore_sqlalchemy.doctor import Bounds

        asked = looking.Doctor(
            database_url=database_url,
            routes=routes,
            lease_s=lease_s,
            bounds=Bounds(overdue_s=overdue_s, review_s=review_s),
            tenant_id=tenant_id,
            since=since,
            limit=limit,
            timeout_s=timeout_s,
            with_roles=roles,
            with_relay=relay,
            connections=connections,
        )
        diagnosis = asked.look()
        if as_json:
            click.echo(json.dumps(looking.as_json(diagnosis), indent=2))
        else:
            looking.show(make_console(to_stderr=False), diagnosis)
    sys.exit(diagnosis.exit_status)


@main.group()
def schema() -> None:
    """Install, print or check the database schema."""


_database_url = click.option("--database-url", envvar=URL_VARIABLE, required=True)
_roles = click.option("--roles/--no-roles", default=True, show_default=True, help="Roles as well.")


@schema.command()
@_database_url
@_roles
def install(*, database_url: str, roles: bool) -> None:
    """Create the tables, their guards and the roles in an empty database."""
    with _starting(), _connected(database_url) as connection:
        from railcore_sqlalchemy import schema as made

        made.install(connection)
        if roles:
            made.install_roles(connection)
    click.echo("The schema is installed.")


@schema.command()
@_roles
def sql(*, roles: bool) -> None:
    """Print the schema as SQL, for whoever installs it by hand."""
    with _starting():
        from railcore_sqlalchemy import schema as made
        from railcore_sqlalchemy.statements import read

        names = (*made.CREATE, *(made.ROLES if roles else ()))
        for name in names:
            click.echo(read(name))


@schema.command()
@_database_url
def verify(*, database_url: str) -> None:
    """Compare a database with the schema; the exit status is 1 when something is wrong."""
    with _starting(), _connected(database_url) as connection:
        from railcore_sqlalchemy import schema as made

        problems = made.verify(connection)
    for problem in problems:
        click.echo(problem)
    if problems:
        sys.exit(1)
    click.echo("The schema is as it should be.")


@contextmanager
def _starting() -> Iterator[None]:
    """Turn what keeps a command from starting into one sentence and exit status 2."""
    try:
        yield
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and not _is_ours(error.name):
            _stop(f"{error.name} is missing: {_INSTALL}", error)
        if "pip install" not in str(error):
            raise
        _stop(str(error), error)
    except KeyboardInterrupt as error:
        text = "Interrupted. Run the same command again: nothing is charged twice."
        _stop(text, error, exit_code=_INTERRUPTED)
    except (RailcoreError, OSError) as error:
        _stop(str(error), error)
    except Exception as error:
        if not type(error).__module__.startswith(("sqlalchemy", "psycopg")):
            raise
        told = str(error).splitlines() or [type(error).__name__]
        _stop(f"The database said: {told[0]}", error)


class _Stopped(click.ClickException):
    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance


def _is_ours(name: str | None) -> bool:
    return (name or "").startswith("railcore")


def _stop(text: str, error: BaseException, *, exit_code: int = _COULD_NOT_START) -> Never:
    raise _Stopped(text, exit_code) from error


@contextmanager
def _connected(database_url: str) -> Iterator["Connection"]:
    import sqlalchemy

    from railcore_adapters.embedded import open_database

    with open_database(database_url) as database:
        engine = sqlalchemy.create_engine(database.url, poolclass=sqlalchemy.NullPool)
        with engine.begin() as connection:
            yield connection


def _log() -> "LoggingObserver":
    from railcore_adapters.observers import LoggingObserver

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.Logger("railcore", logging.INFO)  # noqa: LOG001 - of this run alone
    logger.addHandler(handler)
    return LoggingObserver(logger)


def _end(summary: "Summary", status: int, console: "Console", *, as_json: bool) -> Never:
    from railcore_adapters.cli.report import show
    from railcore_adapters.cli.summary import as_json as jsonable

    if as_json:
        click.echo(json.dumps(jsonable(summary, status), indent=2))
    else:
        show(console, summary)
    sys.exit(status)

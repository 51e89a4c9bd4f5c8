"""``railcore sandbox``: providers, and a database if wanted, to try ``railcore run`` on."""

import shlex
import signal
import threading
from contextlib import ExitStack

import click

from railcore_adapters.credentials import secret_variable
from railcore_adapters.embedded import EmbeddedPostgres
from railcore_adapters.sandbox import Sandbox


def serve(port: int, *, with_database: bool) -> None:
    """Serve until SIGINT or SIGTERM, after the lines that a shell reads to find it."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with ExitStack() as opened:
        sandbox = opened.enter_context(Sandbox(port=port))
        exports = {"RAILCORE_STUB_URL": sandbox.url}
        for account, key in sandbox.accounts.items():
            exports[secret_variable("stub", account)] = key
        if with_database:
            exports["RAILCORE_DATABASE_URL"] = opened.enter_context(EmbeddedPostgres()).url
        for name, value in exports.items():
            click.echo(f"export {name}={shlex.quote(value)}")
        click.echo("# Serving until Ctrl-C; paste the lines above into another terminal.")
        stopping.wait()

"""``python -m railcore_adapters.sandbox``: a sandbox of its own, until it is told to stop."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence

from railcore_adapters.sandbox.sandbox import DEFAULT_ACCOUNTS, Sandbox


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, after one line of JSON that says where and with which keys."""
    asked = _parser().parse_args(arguments)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    sandbox = Sandbox(
        port=asked.port,
        accounts=dict(asked.account or DEFAULT_ACCOUNTS),
        read_lag_s=asked.read_lag_s,
        delay_s=asked.delay_s,
        latency_s=asked.latency_s,
        settle_at_once=asked.settle_at_once,
    )
    with sandbox:
        found = {"url": sandbox.url, "accounts": sandbox.accounts, "pid": os.getpid()}
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
        stopping.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m railcore_adapters.sandbox",
        description="Serve a fake PSP and a fake bank on loopback.",
    )
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes any free port")
    parser.add_argument(
        "--account",
        type=_account,
        action="append",
        metavar="NAME=KEY",
        help="an account and its API key; may be repeated; by default main=sk_sandbox_main",
    )
    parser.add_argument("--read-lag-s", type=float, default=0.0, help="age at which lookups see")
    parser.add_argument("--delay-s", type=float, default=1.0, help="how long the fault delay lasts")
    parser.add_argument("--latency-s", type=float, default=0.0, help="how long each answer takes")
    parser.add_argument(
        "--settle-at-once",
        action="store_true",
        help="settle a bank payment when it is approved",
    )
    return parser


def _account(said: str) -> tuple[str, str]:
    name, equals, key = said.partition("=")
    if not (name and equals and key):
        raise argparse.ArgumentTypeError(f"wanted NAME=KEY, found {said!r}")
    return name, key


if __name__ == "__main__":
    main()

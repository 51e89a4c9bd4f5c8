"""
Runs the matrix: ``python -m tests.faults.wire [--pairs] [--sample N] [OPERATION ...]``.

Two processes share the work, each with some databases on one server. The exit status is 1 when
anything was found.
"""

import argparse
import asyncio
import subprocess
import sys
import time

from railcore_adapters.embedded import EmbeddedPostgres
from tests.conftest import SETTINGS
from tests.faults.wire import matrix
from tests.faults.wire.operations import OPERATIONS
from tests.faults.wire.providers import PROVIDERS

PROCESSES = 2
BEHAVIOURS = frozenset(name for act in OPERATIONS.values() for name in act.behaviours)


def main() -> int:
    """Run what the command line asks for."""
    asked = _arguments()
    if asked.url is None:
        return _spread(asked)
    began_s = time.monotonic()
    with PROVIDERS[asked.provider]() as provider, matrix.databases(asked.url, asked.stages) as urls:
        names = asked.operations or (matrix.IN_PAIRS if asked.pairs else ())
        kinds = matrix.kinds(provider, names)
        if asked.behaviours:
            kinds = [one for one in kinds if one.behaviour.name in asked.behaviours]
        wanted = kinds[asked.part :: PROCESSES]
        tallies = asyncio.run(
            matrix.run(
                urls,
                provider,
                wanted,
                sample=asked.sample,
                seed=asked.seed,
                pairs=asked.pairs,
                part=f"p{asked.part}s",
            )
        )
    total = matrix.summary(tallies, time.monotonic() - began_s, asked.seed)
    sys.stdout.write(f"TOTAL {total}\n")
    return 1 if any(tally.findings for tally in tallies) else 0


def _spread(asked: argparse.Namespace) -> int:
    settings = {**SETTINGS, "max_connections": "600"}
    with EmbeddedPostgres(settings, durable=False) as server:
        program = [sys.executable, "-m", "tests.faults.wire", *sys.argv[1:], "--url", server.url]
        parts = [subprocess.Popen([*program, "--part", str(part)]) for part in range(PROCESSES)]
        return max(part.wait() for part in parts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.wire", description=__doc__)
    parser.add_argument("operations", nargs="*", help="some operations; all by default")
    parser.add_argument("--provider", choices=PROVIDERS, default="stub", help="whose client")
    parser.add_argument(
        "--behaviour", action="append", dest="behaviours", choices=BEHAVIOURS, help="all by default"
    )
    parser.add_argument("--pairs", action="store_true", help="a second fault in the recovery")
    parser.add_argument("--sample", type=int, default=0, help="so many cases a kind; 0 for all")
    parser.add_argument("--seed", type=int, default=20261124, help="chooses the sample")
    parser.add_argument("--stages", type=int, default=2, help="databases a process")
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--part", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

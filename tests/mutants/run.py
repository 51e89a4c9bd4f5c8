"""
Weaken one rule at a time and run the tests that have to notice: ``python -m tests.mutants.run``.

Every mutant is made in a copy of the project, never in the project itself. Its tests run in a
process of their own, and count only where they fail: a test that cannot be set up or collected
proves nothing. First of all the named tests have to pass as they are.

``python -m tests.mutants.run due lease`` runs those with ``due`` or ``lease`` in the name.
"""

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import attrs

from railcore_adapters.embedded import EmbeddedPostgres
from tests.conftest import SETTINGS, URL_VARIABLE
from tests.mutants.mutation import ROOT, Mutant, collected
from tests.mutants.protocol import PROTOCOL
from tests.mutants.sql import SQL

COPIED: Final = ("src", "tests", "examples", "conftest.py", "pyproject.toml")
PYTEST: Final = ("-m", "pytest", "-q", "--no-header", "--no-showlocals", "-p", "no:cacheprovider")
PATIENCE_S: Final = 300.0
MUTANTS: Final = (*SQL, *PROTOCOL)


@attrs.frozen
class Judgement:
    """What the named tests made of a mutant."""

    verdicts: dict[str, str]
    said: str
    took_s: float

    @property
    def is_caught(self) -> bool:
        """Whether every one of them failed."""
        return all(verdict == "failed" for verdict in self.verdicts.values())


@attrs.frozen
class Lane:
    """A copy of the project and a server; one mutant at a time."""

    folder: Path
    database_url: str
    cases: Mapping[str, Sequence[str]]
    """What the tests that mutants name consist of."""

    def judge(self, mutant: Mutant) -> Judgement:
        """Weaken the rule, run the tests, and put it back."""
        path = self.folder / "src" / mutant.file
        original = path.read_text()
        path.write_text(mutant.applied(original))
        for cached in path.parent.glob(f"__pycache__/{path.stem}.*"):
            cached.unlink()  # the copy may be of the same size and second
        try:
            return self.run(mutant.tests)
        finally:
            path.write_text(original)

    def run(self, tests: Sequence[str]) -> Judgement:
        """Run *tests* in the copy."""
        cases = [case for test in tests for case in self.cases[test]]
        report = self.folder / "report.xml"
        report.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "PYTHONPATH": os.fspath(self.folder / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
            URL_VARIABLE: self.database_url,
        }
        options = ("--timeout=60", "--hypothesis-seed=0", f"--junitxml={report}")
        began = time.monotonic()
        with tempfile.TemporaryFile("w+") as output:
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    [sys.executable, *PYTEST, *options, *cases],
                    cwd=self.folder,
                    env=environment,
                    check=False,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=PATIENCE_S,
                )
            took_s = time.monotonic() - began
            if not report.exists():
                output.seek(0)
                last = (output.read().strip() or "nothing was said").splitlines()[-1]
                return Judgement(dict.fromkeys(tests, "not run"), last, took_s)
        return judged({test: self.cases[test] for test in tests}, report, took_s)


def judged(tests: Mapping[str, Sequence[str]], report: Path, took_s: float) -> Judgement:
    """Read what became of *tests*, each with its cases, from the report of a run."""
    became = {
        f"{case.get('classname')}.{case.get('name')}": case
        for case in ET.parse(report).iter("testcase")
    }
    found = {
        test: [became[name] for name in map(reported, cases) if name in became]
        for test, cases in tests.items()
    }
    failures = [
        failure
        for cases in found.values()
        for case in cases
        if (failure := case.find("failure")) is not None
        or (failure := case.find("error")) is not None
    ]
    said = (failures[0].get("message") or "").strip() if failures else ""
    verdicts = {test: verdict(cases) for test, cases in found.items()}
    return Judgement(verdicts, said.splitlines()[0] if said else "", took_s)


def reported(case: str) -> str:
    """Return a node id as a report spells it."""
    node, bracket, rest = case.partition("[")
    path, *names = node.split("::")
    return ".".join((path.removesuffix(".py").replace("/", "."), *names)) + bracket + rest


def verdict(cases: Sequence[ET.Element]) -> str:
    """Return what became of the cases of one test; a failure of one is enough."""
    kinds = {child.tag for case in cases for child in case}
    if not cases:
        return "not run"
    if "failure" in kinds:
        return "failed"
    if "error" in kinds:
        return "broken"
    return "skipped" if "skipped" in kinds else "passed"


@contextmanager
def lane(folder: Path, named: Sequence[str]) -> Iterator[Lane]:
    """Copy the project to *folder*, and start a server."""
    for name in COPIED:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, folder / name)
    with EmbeddedPostgres(SETTINGS, durable=False) as server:
        yield Lane(folder, server.url, collected(named, folder))


def run(mutants: Sequence[Mutant], lanes: Sequence[Lane]) -> dict[str, Judgement]:
    """Judge *mutants*, as many at a time as there are lanes, and print each."""
    waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    for mutant in mutants:
        waiting.put(mutant)
    judgements: dict[str, Judgement] = {}
    width = max(len(mutant.name) for mutant in mutants)

    def work(lane: Lane) -> None:
        while True:
            try:
                mutant = waiting.get_nowait()
            except queue.Empty:
                return
            judgement = lane.judge(mutant)
            judgements[mutant.name] = judgement
            print(line(mutant, judgement, width), flush=True)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return judgements


def line(mutant: Mutant, judgement: Judgement, width: int) -> str:
    """Return one line of the table, and one more for each test that did not fail."""
    word = "caught" if judgement.is_caught else "SURVIVED"
    by = ", ".join(test.rpartition("::")[2] for test in mutant.tests)
    lines = [f"{word:8}  {mutant.name:{width}}  {judgement.took_s:5.1f} s  {by}"]
    lines += [
        f"          {became}: {test}"
        for test, became in judgement.verdicts.items()
        if became != "failed"
    ]
    lines.append(f"          {judgement.said[:150]}")
    return "\n".join(lines)


def main() -> int:
    """Run the mutants that were asked for, and return 1 unless all were caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of names; all of them without")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    asked = parser.parse_args()
    mutants = [
        one
        for one in MUTANTS
        if not asked.words or any(word in f"{one.file} {one.name}" for word in asked.words)
    ]
    if not mutants:
        print("No mutant has that in its name.")
        return 1
    with tempfile.TemporaryDirectory(prefix="railcore-mutants-") as scratch, ExitStack() as stack:
        jobs = min(asked.jobs, len(mutants))
        named = sorted({test for mutant in mutants for test in mutant.tests})
        lanes = [stack.enter_context(lane(Path(scratch, str(one)), named)) for one in range(jobs)]
        healthy = lanes[0].run(named)
        unfit = {test: was for test, was in healthy.verdicts.items() if was != "passed"}
        if unfit:
            print("Without any mutant these have to pass:", healthy.said)
            print("\n".join(f"  {became}: {test}" for test, became in unfit.items()))
            return 1
        print(f"{len(named)} tests pass as they are ({healthy.took_s:.0f} s).", flush=True)
        began = time.monotonic()
        judgements = run(mutants, lanes)
        took_s = time.monotonic() - began
    caught = sum(one.is_caught for one in judgements.values())
    kinds = Counter("sql" if one.file.endswith(".sql") else "python" for one in mutants)
    print(f"{caught} of {len(mutants)} mutants caught in {took_s:.0f} s: {dict(kinds)}.")
    return 0 if caught == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())

"""
Change one thing at a time in a module of the core, and see whether a test notices.

``python -m tests.mutants.mutate railcore/money.py``, or without a name for all of them. What no
test notices has to be explained in ``survivors.toml``; anything else that survives ends with
status 1.

The tests are collected once. Then a process is forked for each mutant, gets the changed code in
place of the old, and runs the tests that call the function, the quickest first, up to the first
that fails. What stands outside of functions, or cannot be put in place so, is tried in a process
that imports everything anew. A mutant that runs for ever counts as noticed.
"""

import argparse
import math
import os
import pickle
import resource
import signal
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Final

import attrs
import hypothesis
import pytest

from tests.mutants.cuts import Cut, cuts
from tests.mutants.mutation import ROOT

SURVIVORS: Final = Path(__file__).with_name("survivors.toml")
LEAST_S: Final = 5
"""How long the tests of a mutant may take, beside three times what they take without."""
PROGRESS: Final = os.dup(2)
"""Where to say how far it is: what forked processes write is thrown away."""
SURVEY_S: Final = 1200
ALL_S: Final = 20_000
_CORE: Final = "tests/core/test_"
_ENGINES: Final = (
    "engine",
    "engine_operators",
    "engine_shells",
    "enqueue",
    "follow_ups",
    "intake",
    "review",
)
TARGETS: Final[Mapping[str, Sequence[str]]] = {
    "railcore/money.py": ["money", "errors"],
    "railcore/failures.py": ["failures", "results", "lifecycle"],
    "railcore/lifecycle.py": ["lifecycle", "lifecycle_told"],
    "railcore/kernel.py": ["kernel", "engine", "enqueue", "follow_ups", "breaker", "review"],
    "railcore/procedures.py": [*_ENGINES, "breaker"],
    "railcore/engine.py": [*_ENGINES, "story"],
}
"""The tests that a mutant of a module meets."""
_MORE: Final = {"railcore/lifecycle.py": ["tests/property/test_fold.py"]}
_FIRST_EXAMPLE: Final = hypothesis.settings(
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate), derandomize=True
)
"""A failure is enough: nobody looks for the smallest."""
_QUIET: Final = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
_OPTIONS: Final = (
    "-q",
    "-x",
    "-p",
    "no:cacheprovider",
    "--timeout=0",
    "--tb=no",
    "--hypothesis-profile=mutants",
    *_QUIET,
)


@attrs.define
class _Failures:
    """Whether a test failed."""

    seen: bool = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note."""
        self.seen = self.seen or report.failed


@attrs.define
class _Loop:
    """
    Runs in place of pytest's loop: surveys the tests, then forks for each mutant.

    Attributes:
        path: The module.
        mutants: What to try.
        survived: What every test that calls the function passes with.
        untried: What has to be imported anew.
        failures: Whether a test failed in this process.
    """

    path: str
    mutants: Sequence[Cut]
    survived: list[Cut] = attrs.field(factory=list)
    untried: list[Cut] = attrs.field(factory=list)
    failures: _Failures = attrs.field(factory=_Failures)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Try every mutant that can be put in place."""
        called: Mapping[str, Sequence[tuple[float, int]]] | None
        called = forked(lambda: self._survey(session.items), SURVEY_S)
        if called is None:
            raise pytest.UsageError("The tests do not pass as they are")
        functions = dict(_functions(self.path))
        for number, mutant in enumerate(self.mutants):
            if not number % 50:
                done = f"{number} of {len(self.mutants)} tried, {len(self.survived)} survive"
                os.write(PROGRESS, f"  {done}\n".encode())
            name = str(mutant.function)
            tests = called.get(name, ())
            items = [session.items[at] for _, at in tests]
            patience_s = LEAST_S + 3 * math.ceil(sum(took_s for took_s, _ in tests))
            code = _code_of(mutant.text, self.path, name)
            if not items or code is None or not _fits(code, functions.get(name)):
                self.untried.append(mutant)
            elif forked(partial(self._passes, functions[name], code, items), patience_s):
                self.survived.append(mutant)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of a failure."""
        self.failures.pytest_runtest_logreport(report)

    def _survey(self, items: Sequence[pytest.Item]) -> dict[str, list[tuple[float, int]]] | None:
        """Return which tests call which function, the quickest first."""
        found: dict[str, list[tuple[float, int]]] = {}
        for number, item in enumerate(items):
            names: set[str] = set()

            def profile(frame: Any, event: str, _: object, names: set[str] = names) -> None:
                code = frame.f_code
                if event == "call" and code.co_filename == self.path:
                    names.add(code.co_qualname.partition(".<locals>")[0])

            began = time.perf_counter()
            sys.setprofile(profile)
            threading.setprofile(profile)
            self._run(item)
            sys.setprofile(None)
            threading.setprofile(None)
            if self.failures.seen:
                return None
            for name in names:
                found.setdefault(name, []).append((time.perf_counter() - began, number))
        return {name: sorted(tests) for name, tests in found.items()}

    def _passes(self, function: FunctionType, code: CodeType, items: Sequence[pytest.Item]) -> bool:
        """Return whether every test still passes."""
        function.__code__ = code
        for item in items:
            self._run(item)
            if self.failures.seen:
                return False
        return True

    def _run(self, item: pytest.Item) -> None:
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)


def forked(work: Callable[[], Any], patience_s: int) -> Any:
    """
    Return what *work* returns in a process of its own; None when that does not come back.

    Where it is ended because its time is over, that is said.
    """
    read, write = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.close(read)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (patience_s, patience_s))
        try:
            answer = pickle.dumps(work())
            with os.fdopen(write, "wb") as pipe:
                pipe.write(answer)
        finally:
            os._exit(0)
    os.close(write)
    timer = threading.Timer(patience_s, os.kill, (child, signal.SIGKILL))
    timer.start()
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    timer.cancel()
    if os.WIFSIGNALED(status):
        os.write(PROGRESS, f"  one ran out of its {patience_s} s\n".encode())
    return pickle.loads(answer) if answer else None


def _functions(path: str) -> Iterator[tuple[str, FunctionType]]:
    """Return the functions of the module at *path* by qualified name, properties included."""
    module = next(m for m in [*sys.modules.values()] if getattr(m, "__file__", None) == path)
    spaces = [vars(module)]
    spaces += [
        dict(vars(value))
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
    ]
    for space in spaces:
        for value in space.values():
            for name in ("fget", "__func__", "func", "__wrapped__"):
                value = getattr(value, name, None) or value  # noqa: PLW2901 - what it wraps
            if isinstance(value, FunctionType) and value.__code__.co_filename == path:
                yield value.__code__.co_qualname, value


def _fits(code: CodeType, function: FunctionType | None) -> bool:
    """Return whether *function* can have *code* in place of its own, and differs by it."""
    if function is None or function.__code__ == code:
        return False
    return function.__code__.co_freevars == code.co_freevars


def _code_of(text: str, path: str, name: str) -> CodeType | None:
    """Return the code of the function *name* in the module that *text* is."""
    waiting = [compile(text, path, "exec", dont_inherit=True)]
    while waiting:
        code = waiting.pop()
        if code.co_qualname == name:
            return code
        waiting += [one for one in code.co_consts if isinstance(one, CodeType)]
    return None


def _pytest(tests: Sequence[str], plugin: object) -> int:
    return int(pytest.main([*_OPTIONS, *tests], plugins=[plugin]))


def _quickly(
    path: str, tests: Sequence[str], mutants: Sequence[Cut]
) -> tuple[Sequence[Cut], Sequence[Cut]] | None:
    """Return which of *mutants* survive being put in place, and which need a new import."""
    loop = _Loop(path, [one for one in mutants if one.function is not None])
    if _pytest(tests, loop) or not loop.mutants:
        return None
    return loop.survived, [*loop.untried, *(one for one in mutants if one.function is None)]


def _anew(path: str, tests: Sequence[str], text: str) -> bool:
    """Return whether *tests* pass when the module at *path* says *text*."""
    original = SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, fullname: str) -> CodeType | None:
        if self.path == path:
            return compile(text, path, "exec", dont_inherit=True)
        return original(self, fullname)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]
    return _pytest(tests, _Failures()) == 0


def survivors(file: str) -> tuple[Sequence[Cut], int]:
    """Return which mutants of *file* no test notices, and how many there are."""
    path = os.fspath(ROOT / "src" / file)
    tests = [f"{_CORE}{name}.py" for name in TARGETS[file]] + _MORE.get(file, [])
    text = Path(path).read_text()
    began_s = time.monotonic()
    if not forked(partial(_anew, path, tests, text), SURVEY_S):
        raise SystemExit(f"The tests of {file} do not pass where it is imported anew")
    patience_s = LEAST_S + 3 * math.ceil(time.monotonic() - began_s)
    mutants = cuts(text)
    tried = forked(lambda: _quickly(path, tests, mutants), ALL_S)
    if tried is None:
        raise SystemExit(f"The tests of {file} do not pass as they are")
    left, untried = tried
    left += [one for one in untried if forked(partial(_anew, path, tests, one.text), patience_s)]
    return left, len(mutants)


def explained() -> Mapping[str, Mapping[str, str]]:
    """Return why mutants survive, by file and name."""
    reasons: dict[str, dict[str, str]] = {}
    for one in tomllib.loads(SURVIVORS.read_text()).get("reason", ()):
        for name in one["mutants"]:
            reasons.setdefault(one["file"], {})[name] = one["why"]
    return reasons


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Try the modules that were asked for, and return 1 where something survives unexplained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", default=[*TARGETS])
    os.chdir(ROOT)
    hypothesis.settings.register_profile("mutants", _FIRST_EXAMPLE)
    known, strangers = explained(), 0
    for file in parser.parse_args().files:
        began = time.monotonic()
        left, total = survivors(file)
        reasons = known.get(file, {})
        new = [one.name for one in left if one.name not in reasons]
        gone = reasons.keys() - {one.name for one in left}
        killed = total - len(left)
        _tell(
            f"{file}: {killed} of {total} noticed, {killed / total:.1%};"
            f" {len(left)} survive, {len(new)} of them unexplained"
            f" ({time.monotonic() - began:.0f} s)"
        )
        for name in new:
            _tell(f"  unexplained: {name}")
        for name in sorted(gone):
            _tell(f"  noticed by now, so that it needs no explanation: {name}")
        strangers += len(new)
    return 1 if strangers else 0


if __name__ == "__main__":
    sys.exit(main())

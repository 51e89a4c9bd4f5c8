"""Credentials from the environment: one variable is one account's."""

import threading

import pytest

from railcore.enums import RouteMode
from railcore.errors import MisconfiguredError
from railcore_adapters.credentials import (
    EnvironmentCredentials,
    EnvironmentWebhookAccounts,
    check_variables,
)

DASH, LINE = ("psp", "a-b"), ("psp", "a_b")
BOTH = "psp/a-b and psp/a_b"
ENVIRONMENT = {"RAILCORE_SECRET_PSP_A_B": "one", "RAILCORE_WEBHOOK_SECRET_PSP_A_B": "one"}


@pytest.mark.parametrize(
    ("one", "other"),
    [(DASH, LINE), (("psp", "main"), ("psp", "MAIN")), (("psp_eu", "x"), ("psp", "eu_x"))],
)
def test_two_accounts_with_one_variable_are_named_at_the_start(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    for names in ([one, other], [other, one], [one, one, ("psp", "third"), other]):
        with pytest.raises(MisconfiguredError) as caught:
            EnvironmentWebhookAccounts(names)
        assert all("/".join(name) in caught.value.problem for name in (one, other))
        with pytest.raises(MisconfiguredError):
            EnvironmentCredentials(names=names)
    assert caught.value.place.startswith("RAILCORE_SECRET_PSP")


def test_two_accounts_with_one_variable_are_refused_when_both_are_asked_for() -> None:
    credentials = EnvironmentCredentials(ENVIRONMENT)
    assert [credentials.secret("acme", *DASH).reveal() for _ in range(2)] == ["one", "one"]

    for _ in range(2):
        with pytest.raises(MisconfiguredError, match=BOTH):
            credentials.secret("acme", *LINE)
    assert credentials.secret("acme", *DASH).reveal() == "one"


def test_of_two_accounts_that_race_for_one_variable_one_is_refused() -> None:
    credentials, barrier = EnvironmentCredentials(ENVIRONMENT), threading.Barrier(8)
    told = list[str]()

    def ask(number: int) -> None:
        barrier.wait()
        try:
            told.append(credentials.secret("acme", *(DASH, LINE)[number % 2]).reveal())
        except MisconfiguredError:
            told.append("refused")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(told) == ["one"] * 4 + ["refused"] * 4


def test_accounts_of_different_variables_stand_beside_each_other() -> None:
    check_variables([("psp", "main"), ("psp", "second"), ("bank", "main"), ("psp", "main")])


def test_an_account_moves_real_money_unless_it_says_otherwise() -> None:
    modes = {DASH: RouteMode.SANDBOX}
    (play,) = EnvironmentWebhookAccounts([DASH], ENVIRONMENT, modes).accounts("psp", None)
    (real,) = EnvironmentWebhookAccounts([DASH], ENVIRONMENT).accounts("psp", "a-b")

    assert (play.mode, real.mode) == (RouteMode.SANDBOX, RouteMode.LIVE)

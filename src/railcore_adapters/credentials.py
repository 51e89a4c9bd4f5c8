"""
Where credentials come from: the environment, or a mapping that the host filled itself.

Providers write into their keys what they open: ``sk_live_...``, ``sk_test_...``. That is read here,
so that no live key is ever used for play, and no test key where money is waited for.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

import attrs

from railcore.enums import RouteMode
from railcore.errors import MisconfiguredError
from railcore.ports import CredentialSource
from railcore.redaction import Secret
from railcore.webhooks import WebhookAccount

__all__ = [
    "EnvironmentCredentials",
    "EnvironmentWebhookAccounts",
    "FixedCredentials",
    "FixedWebhookAccounts",
    "MatchingCredentials",
    "check_variables",
    "mode_shown",
    "secret_variable",
]

_MARKS: Final[Mapping[str, RouteMode]] = {
    **dict.fromkeys(("live", "prod", "production"), RouteMode.LIVE),
    **dict.fromkeys(("test", "sandbox", "sbx"), RouteMode.SANDBOX),
}
_WORDS_READ: Final = 3  # what comes later is by chance


@attrs.frozen
class FixedCredentials:
    """
    A ``CredentialSource`` over what the host already holds.

    Attributes:
        secrets: By (provider, account), the same for every tenant.
    """

    secrets: Mapping[tuple[str, str], Secret]

    def secret(self, tenant_id: str, provider: str, account: str, /) -> Secret:
        """
        Return the credential of *account*.

        Raises:
            MisconfiguredError: There is none.
        """
        try:
            return self.secrets[provider, account]
        except KeyError:
            problem = f"no credential is known (asked for tenant {tenant_id})"
            raise MisconfiguredError(f"{provider}/{account}", problem, "Add it") from None


@attrs.frozen
class EnvironmentCredentials:
    """
    A ``CredentialSource`` that reads ``RAILCORE_SECRET_<PROVIDER>_<ACCOUNT>``.

    Letters are capitals, and anything but letters and digits is an underscore. Two accounts whose
    variables would have one name are refused: at once where *names* are given, otherwise as soon as
    both were asked for.

    Attributes:
        names: The accounts there are, as (provider, account), where the host knows them.
    """

    environment: Mapping[str, str] = attrs.field(factory=lambda: os.environ, repr=False)
    names: Collection[tuple[str, str]] = ()
    _owners: dict[str, tuple[str, str]] = attrs.field(
        factory=dict, init=False, repr=False, eq=False
    )

    def __attrs_post_init__(self) -> None:
        check_variables(self.names, self._owners)

    def secret(self, tenant_id: str, provider: str, account: str, /) -> Secret:
        """
        Return the credential of *account*, the same for every tenant.

        Raises:
            MisconfiguredError: The variable is not set, or another account has the same one; names
                are told, never a value.
        """
        check_variables([(provider, account)], self._owners)
        name = secret_variable(provider, account)
        value = self.environment.get(name)
        if not value:
            problem = f"no credential for account {account} of {provider} (tenant {tenant_id})"
            raise MisconfiguredError(name, problem, "Set this environment variable")
        return Secret(value)


def mode_shown(secret: Secret) -> RouteMode | None:
    """
    Return what a credential says that it opens, in its first words; None where it says nothing.

    >>> mode_shown(Secret("sk_test_4eC39H")), mode_shown(Secret("rk_live_51Hx")).value
    (<RouteMode.SANDBOX: 'sandbox'>, 'live')
    """
    words = re.split(r"[^0-9a-z]+", secret.reveal().lower())[:_WORDS_READ]
    modes = {_MARKS[word] for word in words if word in _MARKS}
    return modes.pop() if len(modes) == 1 else None


@attrs.frozen
class MatchingCredentials:
    """
    A ``CredentialSource`` that gives no live credential to a sandbox account, nor the reverse.

    It looks each time it is asked: a credential that is exchanged while the process runs is looked
    at as well.

    Attributes:
        source: Where they come from.
        modes: What each account is for, by (provider, account); others are not looked at.
        shown: Reads what a credential is for; None where it does not say.
    """

    source: CredentialSource
    modes: Mapping[tuple[str, str], RouteMode]
    shown: Callable[[Secret], RouteMode | None] = mode_shown

    def secret(self, tenant_id: str, provider: str, account: str, /) -> Secret:
        """
        Return the credential of *account*.

        Raises:
            MisconfiguredError: There is none, or it is for the other mode; the account is named.
        """
        secret = self.source.secret(tenant_id, provider, account)
        wanted, shown = self.modes.get((provider, account)), self.shown(secret)
        if None not in {wanted, shown} and wanted is not shown:
            problem = f"its routes are {wanted}, and its credential is a {shown} one"
            remedy = f"Give it a {wanted} credential, or routes of mode {shown}"
            raise MisconfiguredError(f"{provider}/{account}", problem, remedy)
        return secret


@attrs.frozen
class FixedWebhookAccounts:
    """
    ``WebhookAccounts`` over what the host already holds.

    Attributes:
        known: The accounts of each provider.
    """

    known: Mapping[str, Sequence[WebhookAccount]]

    def accounts(self, provider: str, account: str | None, /) -> Sequence[WebhookAccount]:
        """Return the account, or every account of the provider."""
        return [one for one in self.known.get(provider, ()) if account in {None, one.account}]


@attrs.frozen
class EnvironmentWebhookAccounts:
    """
    ``WebhookAccounts`` that reads ``RAILCORE_WEBHOOK_SECRET_<PROVIDER>_<ACCOUNT>``.

    A variable holds one secret, or two with a blank between while one follows the other. It is read
    at every delivery.

    Attributes:
        names: The accounts there are, as (provider, account); tenants share them.
        modes: What each of them is for; others move real money.

    Raises:
        MisconfiguredError: Two accounts would read the same variable; both are named.
    """

    names: Collection[tuple[str, str]]
    environment: Mapping[str, str] = attrs.field(factory=lambda: os.environ, repr=False)
    modes: Mapping[tuple[str, str], RouteMode] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        check_variables(self.names)

    def accounts(self, provider: str, account: str | None, /) -> Sequence[WebhookAccount]:
        """
        Return the account, or every account of the provider.

        Raises:
            MisconfiguredError: The variable of an account is not set; its name is told, never a
                value.
        """
        wanted = [name for name in self.names if name[0] == provider]
        return [self._account(*name) for name in wanted if account in {None, name[1]}]

    def _account(self, provider: str, account: str) -> WebhookAccount:
        variable = secret_variable(provider, account, "WEBHOOK_SECRET")
        secrets = tuple(map(Secret, self.environment.get(variable, "").split()))
        if not secrets:
            problem = f"no webhook secret for account {account} of {provider}"
            raise MisconfiguredError(variable, problem, "Set this environment variable")
        mode = self.modes.get((provider, account), RouteMode.LIVE)
        return WebhookAccount(account=account, secrets=secrets, mode=mode)


def check_variables(
    names: Iterable[tuple[str, str]], owners: dict[str, tuple[str, str]] | None = None
) -> None:
    """
    Check that no two accounts, as (provider, account), would read their secret from one variable.

    Args:
        names: The accounts.
        owners: The account of each variable that is known already; new ones are added.

    Raises:
        MisconfiguredError: Two would; both are named, and the variable.
    """
    found = {} if owners is None else owners
    for name in names:
        variable = secret_variable(*name)
        first = found.setdefault(variable, name)
        if first != name:
            one, other = sorted(("/".join(first), "/".join(name)))
            problem = f"the accounts {one} and {other} would both be read from it"
            raise MisconfiguredError(variable, problem, "Rename one of the two accounts")


def secret_variable(provider: str, account: str, kind: str = "SECRET") -> str:
    """
    Return the name of the environment variable that holds a credential.

    >>> secret_variable("stub", "main")
    'RAILCORE_SECRET_STUB_MAIN'
    """
    parts = (re.sub(r"[^A-Z0-9]", "_", part.upper()) for part in (provider, account))
    return "_".join(("RAILCORE", kind, *parts))

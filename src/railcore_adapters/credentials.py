"""Where credentials come from: the environment, or a mapping that the host filled itself."""

import os
import re
from collections.abc import Collection, Mapping, Sequence

import attrs

from railcore.errors import MisconfiguredError
from railcore.redaction import Secret
from railcore.webhooks import WebhookAccount

__all__ = [
    "EnvironmentCredentials",
    "EnvironmentWebhookAccounts",
    "FixedCredentials",
    "FixedWebhookAccounts",
    "secret_variable",
]


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

    Letters are capitals, and anything but letters and digits is an underscore.
    """

    environment: Mapping[str, str] = attrs.field(factory=lambda: os.environ, repr=False)

    def secret(self, tenant_id: str, provider: str, account: str, /) -> Secret:
        """
        Return the credential of *account*, the same for every tenant.

        Raises:
            MisconfiguredError: The variable is not set; its name is told, never a value.
        """
        name = secret_variable(provider, account)
        value = self.environment.get(name)
        if not value:
            problem = f"no credential for account {account} of {provider} (tenant {tenant_id})"
            raise MisconfiguredError(name, problem, "Set this environment variable")
        return Secret(value)


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
    """

    names: Collection[tuple[str, str]]
    environment: Mapping[str, str] = attrs.field(factory=lambda: os.environ, repr=False)

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
        return WebhookAccount(account=account, secrets=secrets)


def secret_variable(provider: str, account: str, kind: str = "SECRET") -> str:
    """
    Return the name of the environment variable that holds a credential.

    >>> secret_variable("stub", "main")
    'RAILCORE_SECRET_STUB_MAIN'
    """
    parts = (re.sub(r"[^A-Z0-9]", "_", part.upper()) for part in (provider, account))
    return "_".join(("RAILCORE", kind, *parts))

"""Where credentials come from: the environment, or a mapping that the host filled itself."""

import os
import re
from collections.abc import Mapping

import attrs

from railcore.errors import MisconfiguredError
from railcore.redaction import Secret

__all__ = ["EnvironmentCredentials", "FixedCredentials", "secret_variable"]


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


def secret_variable(provider: str, account: str) -> str:
    """
    Return the name of the environment variable that holds a credential.

    >>> secret_variable("stub", "main")
    'RAILCORE_SECRET_STUB_MAIN'
    """
    parts = (re.sub(r"[^A-Z0-9]", "_", part.upper()) for part in (provider, account))
    return "_".join(("RAILCORE_SECRET", *parts))

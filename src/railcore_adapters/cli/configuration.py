"""
What ``railcore run`` is told: one TOML file and the environment.

The file holds the routes, as ``ConfigDrivenRouteResolver`` reads them, and beside them what the
rails need to know: ``[bank_accounts.NAME]``, where payers send transfers to, and ``[approvals]``,
how many people have to confirm at each provider of the manual rail; and ``[events]``, where a
worker delivers events. Credentials are never in it: they come from the environment, as
``RAILCORE_SECRET_<PROVIDER>_<ACCOUNT>``.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import attrs

from railcore.errors import InvalidValueError, MisconfiguredError
from railcore.rails.bank_transfer import BankAccount

MANUAL: Final = "manual"
_BESIDES: Final = ("bank_accounts", "approvals", "events")


@attrs.frozen(kw_only=True)
class Configuration:
    """
    What a host is made from.

    Attributes:
        routes: As ``ConfigDrivenRouteResolver.from_mapping`` takes them.
        bank_accounts: Where payers send transfers to, by the account of the route.
        approvals: How many people confirm, by provider of the manual rail.
        events: Where events are delivered, as ``railcore_adapters.cli.delivery`` reads it.
    """

    routes: Mapping[str, object]
    bank_accounts: Mapping[str, BankAccount]
    approvals: Mapping[str, int]
    events: Mapping[str, object] = attrs.field(factory=dict, repr=False)


def read_configuration(path: Path) -> Configuration:
    """
    Return the configuration in the TOML file at *path*.

    Raises:
        MisconfiguredError: No TOML, or a bank account or a number of approvals that cannot be.
        OSError: There is no such file, or it may not be read.
    """
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problem = f"not a TOML file: {error}"
        raise MisconfiguredError(str(path), problem, "Correct the syntax") from error
    accounts = _table(config, "bank_accounts")
    return Configuration(
        routes={name: value for name, value in config.items() if name not in _BESIDES},
        bank_accounts={name: _bank_account(name, entry) for name, entry in accounts.items()},
        approvals={MANUAL: 1, **_table(config, "approvals")},
        events=_table(config, "events"),
    )


def _table(config: Mapping[str, object], name: str) -> Mapping[str, Any]:
    value = config.get(name, {})
    if not isinstance(value, Mapping):
        raise MisconfiguredError(name, "is not a table", f"Write it as [{name}]")
    return cast("Mapping[str, Any]", value)


def _bank_account(name: str, entry: object) -> BankAccount:
    known = [field.name for field in attrs.fields(BankAccount)]
    place = f"bank_accounts.{name}"
    if not isinstance(entry, Mapping) or set(entry) - set(known):
        raise MisconfiguredError(place, "is no bank account", f"Fields are {', '.join(known)}")
    try:
        return BankAccount(**cast("Mapping[str, Any]", entry))
    except (InvalidValueError, TypeError) as error:
        raise MisconfiguredError(place, str(error), "Correct the value") from error

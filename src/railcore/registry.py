"""Which rails there are: says what is missing and what was offered."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

from railcore.enums import PaymentRail
from railcore.errors import MisconfiguredError, UnknownProviderError
from railcore.ports import AsyncRail, Rail
from railcore.routing import RouteCapabilities

AnyRail = TypeVar("AnyRail", bound=Rail | AsyncRail)


class PaymentRailRegistry(Generic[AnyRail]):
    """
    The rails of one engine by (rail, provider); of one colour.

    ``PaymentRailRegistry[Rail]`` or ``[AsyncRail]``.
    """

    def __init__(self) -> None:
        self._rails = dict[tuple[PaymentRail, str], AnyRail]()

    def register(self, rail: PaymentRail, provider: str, handler: AnyRail, /) -> None:
        """
        Offer *handler* for *rail* at *provider*.

        Raises:
            MisconfiguredError: Something is registered there already.
        """
        if (rail, provider) in self._rails:
            raise MisconfiguredError(
                f"{rail}/{provider}",
                "is registered already",
                "Register each rail at a provider once",
            )
        self._rails[rail, provider] = handler

    def find(self, rail: PaymentRail, provider: str, /) -> AnyRail:
        """
        Return what is registered for *rail* at *provider*.

        Raises:
            UnknownProviderError: Nothing is; the message lists what is.
        """
        try:
            return self._rails[rail, provider]
        except KeyError:
            offered = tuple(sorted(f"{one}/{two}" for one, two in self._rails))
            raise UnknownProviderError(f"{rail}/{provider}", offered) from None

    @property
    def offered(self) -> Mapping[tuple[PaymentRail, str], RouteCapabilities]:
        """
        What is registered, and what each declares.

        What ``ConfigDrivenRouteResolver`` checks its routes against.
        """
        return MappingProxyType({key: rail.capabilities for key, rail in self._rails.items()})

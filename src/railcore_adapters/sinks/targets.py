"""
Which addresses events may be sent to, whoever typed the URL.

An endpoint's URL often comes from a tenant, and a relay stands where much can be reached: so it is
a way into the host's network, unless both of these hold. The *origin* is on a list that the host
keeps. And the *address* that the name resolves to is looked at, and it is that address which is
connected to: a name that resolves to something else a moment later (DNS rebinding) gains nothing.
TLS still checks the certificate against the name.

Source: OWASP, Server-Side Request Forgery Prevention Cheat Sheet; IANA special-purpose address
registries, as ``ipaddress`` has them.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

import attrs
from typing_extensions import override

from railcore.errors import DeliveryError, MisconfiguredError

try:
    import httpcore
    import httpx
except ImportError as error:
    raise ImportError("the HTTP sink needs httpx: pip install 'railcore[httpx]'") from error

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PORTS: Final = {"https": 443, "http": 80}
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_METADATA: Final = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",  # AWS, Azure, Google and most others
            "169.254.170.2",  # AWS, tasks
            "fd00:ec2::254",  # AWS
            "169.254.170.23",  # AWS, pods
            "fd00:ec2::23",  # the same
            "fd20:ce::254",  # Google
            "100.100.100.200",  # Alibaba
            "192.0.0.192",  # Oracle
            "168.63.129.16",  # Azure's host, a public address
        ),
    )
)


_NEVER: Final = (
    ipaddress.ip_network("192.88.99.0/24"),  # 6to4 relays
    ipaddress.ip_network("3fff::/20"),  # documentation
)
"""What Python calls public or not, depending on its patch level."""


def _as_origins(origins: Iterable[str]) -> frozenset[str]:
    if isinstance(origins, str):
        raise MisconfiguredError("origins", "found a text", "Give a list of origins")
    return frozenset(map(_configured_origin, origins))


def _as_networks(networks: Iterable[str]) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(one) for one in networks)
    except ValueError as error:
        raise MisconfiguredError(
            "private_networks", str(error), "Give networks such as 10.1.0.0/16"
        ) from error


@attrs.frozen(kw_only=True)
class Targets:
    """
    The endpoints that a sink may send to.

    Attributes:
        origins: Scheme, host and port, such as ``https://hooks.example`` or
            ``https://hooks.example:8443``. Nothing else is sent to: no subdomains, no other port.
        allows_loopback: Whether this machine itself may be a target, and then over plain HTTP too.
            For tests and sidecars.
        private_networks: Networks of the host's own that may be connected to, such as
            ``10.1.0.0/16``. Otherwise only public addresses are; link-local and cloud metadata
            addresses never.
    """

    origins: frozenset[str] = attrs.field(converter=_as_origins)
    allows_loopback: bool = False
    private_networks: tuple[Network, ...] = attrs.field(default=(), converter=_as_networks)

    def __attrs_post_init__(self) -> None:
        for origin in self.origins:
            if origin.startswith("http:") and not (self.allows_loopback and _is_here(origin)):
                remedy = "Use https; for 127.0.0.1, [::1] or localhost, set allows_loopback"
                raise MisconfiguredError(origin, "plain HTTP", remedy)

    def check(self, url: str) -> None:
        """
        Return when *url* may be sent to, as far as it can be told without resolving it.

        Raises:
            MisconfiguredError: Its origin is not on the list, or it is no URL to post to.
        """
        origin = _origin_of(url)
        if origin not in self.origins:
            remedy = "Add it to the targets' origins, or correct the endpoint"
            raise MisconfiguredError(origin, "not among the allowed targets", remedy)

    def checked(self, host: str, addresses: Sequence[str]) -> Sequence[str]:
        """
        Return the *addresses* that *host* resolves to, when every one of them may be connected to.

        Raises:
            DeliveryError: One of them may not, or there is none.
        """
        if not addresses:
            raise DeliveryError(f"{host} resolves to no address")
        for text in addresses:
            address = _unwrapped(ipaddress.ip_address(text.partition("%")[0]))
            if not self._allows(address):
                raise DeliveryError(f"{host} resolves to an address that is no allowed target")
        return addresses

    def _allows(self, address: Address) -> bool:
        if address in _METADATA or address.is_link_local:
            return False
        if any(address in one for one in _NEVER):
            return False
        if address.is_loopback:
            return self.allows_loopback
        return _is_public(address) or any(address in one for one in self.private_networks)


def _unwrapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_public(address: Address) -> bool:
    odd = (
        address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or address.is_private
        or not address.is_global
    )
    if isinstance(address, ipaddress.IPv6Address):  # tunnels lead to an address that none checked
        odd = odd or address.is_site_local or bool(address.sixtofour) or bool(address.teredo)
    return not odd


def _configured_origin(text: str) -> str:
    origin, url = _origin_of(text), httpx.URL(text)
    if url.path not in {"", "/"} or url.query:
        raise MisconfiguredError(origin, "found a path", "Give scheme, host and port only")
    return origin


def _is_here(origin: str) -> bool:
    host = httpx.URL(origin).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _origin_of(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise MisconfiguredError("url", "cannot be read", "Give an absolute https URL") from error
    if parsed.scheme not in _PORTS or not parsed.host:
        raise MisconfiguredError("url", "not absolute, or no https", "Give an absolute https URL")
    if parsed.userinfo or parsed.fragment:
        raise MisconfiguredError(parsed.host, "found user info or a fragment", "Leave it out")
    host = parsed.raw_host.decode("ascii").lower()
    port = parsed.port or _PORTS[parsed.scheme]
    return f"{parsed.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


class GuardedSockets(httpcore.NetworkBackend):
    """
    Sockets that connect only to addresses that were looked at.

    Args:
        targets: Which may be connected to.
        sockets: What makes the connections; httpcore's own by default.
    """

    def __init__(self, targets: Targets, sockets: httpcore.NetworkBackend | None = None) -> None:
        self._targets = targets
        self._sockets = sockets or httpcore.SyncBackend()

    @override
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("the name cannot be resolved") from error
        failed: Exception | None = None
        for address in self._targets.checked(host, _texts(found)):
            try:
                return self._sockets.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed or httpcore.ConnectError("nobody there")


class AsyncGuardedSockets(httpcore.AsyncNetworkBackend):
    """The same, on asyncio."""

    def __init__(
        self, targets: Targets, sockets: httpcore.AsyncNetworkBackend | None = None
    ) -> None:
        self._targets = targets
        # A cast, for some type checkers see only what stands in for it where anyio is missing.
        anyio = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())
        self._sockets = sockets or anyio

    @override
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("the name cannot be resolved") from error
        failed: Exception | None = None
        for address in self._targets.checked(host, _texts(found)):
            try:
                return await self._sockets.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed or httpcore.ConnectError("nobody there")


def _texts(found: Sequence[tuple[Any, ...]]) -> Sequence[str]:
    return list(dict.fromkeys(str(one[4][0]) for one in found))

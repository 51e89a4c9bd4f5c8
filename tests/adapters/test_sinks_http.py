"""The signed HTTP sink, in both colours, against a server that answers byte by byte."""

import asyncio
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs
import httpcore
import pytest

from railcore.envelope import structured
from railcore.errors import DeliveryError, MisconfiguredError
from railcore.events import JournalEvent
from railcore.redaction import Secret
from railcore_adapters import standard_webhooks
from railcore_adapters.sinks import AsyncHttpSink, Endpoint, HttpSink, Targets
from railcore_adapters.sinks.http import LIMITS
from railcore_adapters.sinks.targets import AsyncGuardedSockets, GuardedSockets
from tests.adapters.raw_server import OK, Peer, raw_server
from tests.adapters.sinks import event_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OLD = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
NEW = Secret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
PUBLIC, PRIVATE = "93.184.215.14", "10.0.0.7"


class AtNoon:
    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


def synchronously(event: JournalEvent, *arguments: Any, **settings: Any) -> None:
    with HttpSink(*arguments, clock=AtNoon(), **settings) as sink:
        sink.deliver(event)


def asynchronously(event: JournalEvent, *arguments: Any, **settings: Any) -> None:
    async def deliver() -> None:
        async with AsyncHttpSink(*arguments, clock=AtNoon(), **settings) as sink:
            await sink.deliver(event)

    asyncio.run(deliver())


Deliver = Callable[..., None]


@pytest.fixture(params=[synchronously, asynchronously])
def deliver(request: pytest.FixtureRequest) -> Deliver:
    given: Deliver = request.param
    return given


def here(url: str) -> Targets:
    return Targets(origins={url}, allows_loopback=True)


def answering(octets: bytes) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        while peer.read_request():
            peer.say(octets)

    return script


def status(code: int, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {code} Any", *headers, "Content-Length: 0", "", ""]
    return "\r\n".join(lines).encode()


def request_in(octets: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = octets.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return first, {name.lower(): value for name, value in pairs}, body


def test_an_event_is_posted_with_a_signature(deliver: Deliver) -> None:
    event = event_of()
    with raw_server(answering(OK)) as server:
        deliver(event, Endpoint(f"{server.url}/events", (OLD,)), here(server.url))
        first, headers, body = request_in(server.received[0])

    assert first == "POST /events HTTP/1.1"
    assert headers["content-type"] == "application/cloudevents+json"
    assert body == structured(event)
    assert standard_webhooks.verify([OLD], headers, body, NOW) == str(event.event_id)


def test_both_keys_sign_while_one_follows_the_other(deliver: Deliver) -> None:
    with raw_server(answering(OK)) as server:
        deliver(event_of(), Endpoint(server.url, (OLD, NEW)), here(server.url))
        _, headers, body = request_in(server.received[0])

    for secret in (OLD, NEW):
        standard_webhooks.verify([secret], headers, body, NOW)


def test_a_redelivery_has_the_same_id_and_body(deliver: Deliver) -> None:
    with raw_server(answering(OK)) as server:
        for _ in range(2):
            deliver(event_of(), Endpoint(server.url, (OLD,)), here(server.url))
        (_, first, body), (_, second, again) = map(request_in, server.received)

    assert first["webhook-id"] == second["webhook-id"]
    assert body == again


@pytest.mark.parametrize("code", [200, 201, 202, 204])
def test_any_2xx_is_a_receipt(deliver: Deliver, code: int) -> None:
    answer = b"HTTP/1.1 204 Any\r\n\r\n" if code == 204 else status(code)
    with raw_server(answering(answer)) as server:
        deliver(event_of(), Endpoint(server.url, (OLD,)), here(server.url))


@pytest.mark.parametrize(
    ("code", "is_poison"),
    [
        (300, False),
        (400, False),
        (401, False),
        (404, False),
        (409, False),
        (410, False),
        (413, True),
        (415, False),
        (422, True),
        (429, False),
        (500, False),
        (503, False),
    ],
)
def test_anything_else_is_none(deliver: Deliver, code: int, is_poison: bool) -> None:
    with raw_server(answering(status(code))) as server, pytest.raises(DeliveryError) as caught:
        deliver(event_of(), Endpoint(server.url, (OLD,)), here(server.url))

    assert caught.value.is_poison is is_poison
    assert str(code) in str(caught.value)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(deliver: Deliver, code: int) -> None:
    with raw_server(answering(OK)) as elsewhere:
        moved = status(code, f"Location: {elsewhere.url}/")
        with raw_server(answering(moved)) as server, pytest.raises(DeliveryError):
            deliver(event_of(), Endpoint(server.url, (OLD,)), here(server.url))

        assert not elsewhere.peers


def test_an_endless_answer_is_no_receipt(deliver: Deliver) -> None:
    endless = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 200_000
    with raw_server(answering(endless)) as server, pytest.raises(DeliveryError) as caught:
        deliver(event_of(), Endpoint(server.url, (OLD,)), here(server.url))

    assert not caught.value.is_poison


def test_a_slow_drip_is_given_up(deliver: Deliver) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000, pause_s=0.05)

    limits = attrs.evolve(LIMITS, total_s=0.5)
    began = time.monotonic()
    with raw_server(script) as server, pytest.raises(DeliveryError):
        deliver(event_of(), Endpoint(server.url, (OLD,)), here(server.url), limits=limits)

    assert time.monotonic() - began < 5


def test_nobody_there_is_tried_again(deliver: Deliver) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DeliveryError) as caught:
            deliver(event_of(), Endpoint(url, (OLD,)), here(url))

    assert not caught.value.is_poison


def test_each_event_may_have_an_endpoint_of_its_own(deliver: Deliver) -> None:
    with raw_server(answering(OK)) as one, raw_server(answering(OK)) as other:
        targets = Targets(origins={one.url, other.url}, allows_loopback=True)
        of_tenant = {"acme": Endpoint(one.url, (OLD,)), "else": Endpoint(other.url, (NEW,))}
        deliver(event_of(tenant_id="else"), lambda event: of_tenant[event.tenant_id], targets)

        assert (len(one.peers), len(other.peers)) == (0, 1)


def test_a_tenants_endpoint_that_is_no_target_is_not_called(deliver: Deliver) -> None:
    with raw_server(answering(OK)) as server:
        endpoint = Endpoint(server.url, (OLD,))
        with pytest.raises(DeliveryError, match="not among the allowed targets"):
            deliver(event_of(), lambda _: endpoint, Targets(origins={"https://hooks.example"}))

        assert not server.peers


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.evil.example/",
        "https://evil.example/https://hooks.example",
        "https://hooks.example:8443/",
        "http://hooks.example/",
        "https://sub.hooks.example/",
        "https://hooks.example@evil.example/",
        "https://user@hooks.example/",
        "https://hooks.example/#there",
        "ftp://hooks.example/",
        "//hooks.example/",
        "hooks.example",
        "https://",
        "https://hooks.example\x00.evil.example/",
    ],
)
def test_only_the_exact_origin_is_a_target(deliver: Deliver, url: str) -> None:
    with pytest.raises(MisconfiguredError):
        deliver(event_of(), Endpoint(url, (OLD,)), Targets(origins={"https://hooks.example"}))


@pytest.mark.parametrize(
    "url", ["https://hooks.example", "https://HOOKS.example:443/a?b", "https://hooks.example/x/y"]
)
def test_path_case_and_the_usual_port_do_not_matter(url: str) -> None:
    Targets(origins={"https://hooks.example/"}).check(url)


@pytest.mark.parametrize(
    "settings",
    [
        {"origins": ["http://hooks.example"]},
        {"origins": ["http://hooks.example"], "allows_loopback": True},
        {"origins": ["http://127.0.0.1:8000"]},
        {"origins": ["https://hooks.example/path"]},
        {"origins": ["https://hooks.example?x=1"]},
        {"origins": "https://hooks.example"},
        {"origins": [], "private_networks": ["10.1.0.1/16"]},
        {"origins": [], "private_networks": ["intranet"]},
    ],
)
def test_targets_that_mean_something_else_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(MisconfiguredError):
        Targets(**settings)


@pytest.mark.parametrize(
    "origin", ["http://127.0.0.1:8000", "http://[::1]:8000", "http://localhost"]
)
def test_plain_http_is_for_this_machine(origin: str) -> None:
    assert len(Targets(origins=[origin], allows_loopback=True).origins) == 1


def test_a_secret_that_cannot_sign_is_refused() -> None:
    with pytest.raises(MisconfiguredError):
        Endpoint("https://hooks.example", (Secret("short"),))
    with pytest.raises(MisconfiguredError):
        Endpoint("https://hooks.example", ())


# Addresses ----------------------------------------------------------------------------------

FORBIDDEN = [
    "0.0.0.0",
    "10.0.0.7",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.8.8.8",
    "168.63.129.16",
    "169.254.1.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.192",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::10.0.0.7",
    "64:ff9b::a9fe:a9fe",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2002:0a00:0007::1",
    "fc00::1",
    "fd00:ec2::254",
    "192.88.99.1",
    "3fff::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]
ALLOWED = [PUBLIC, "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.215.14"]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_addresses_inside_are_refused(address: str) -> None:
    targets = Targets(origins=["https://hooks.example"])

    with pytest.raises(DeliveryError) as caught:
        targets.checked("hooks.example", [address])
    with pytest.raises(DeliveryError):
        targets.checked("hooks.example", [PUBLIC, address])

    assert not caught.value.is_poison
    assert address not in str(caught.value)


@pytest.mark.parametrize("address", [*ALLOWED, "64:ff9b::93.184.215.14"])
def test_public_addresses_are_allowed(address: str) -> None:
    targets = Targets(origins=["https://hooks.example"])

    assert targets.checked("hooks.example", [address]) == [address]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1"])
def test_loopback_is_allowed_on_demand(address: str) -> None:
    targets = Targets(origins=["https://hooks.example"], allows_loopback=True)

    assert targets.checked("hooks.example", [address]) == [address]


def test_a_network_of_ones_own_is_allowed_on_demand() -> None:
    targets = Targets(origins=["https://hooks.example"], private_networks=["10.0.0.0/8"])

    assert targets.checked("hooks.example", [PRIVATE]) == [PRIVATE]
    with pytest.raises(DeliveryError):
        targets.checked("hooks.example", ["192.168.1.1"])


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fe80::1", "fd00:ec2::254", "fd20:ce::254", "fd00:ec2::23"]
)
def test_metadata_is_never_a_target(address: str) -> None:
    everything = Targets(origins=[], private_networks=["0.0.0.0/0", "::/0"], allows_loopback=True)

    with pytest.raises(DeliveryError):
        everything.checked("hooks.example", [address])


class Rebound:
    """A name that resolves to a public address once, and inside from then on."""

    def __init__(self) -> None:
        self.answers = iter([PUBLIC])

    def __call__(self, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        address = next(self.answers, PRIVATE)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))]


@attrs.define
class Sockets(httpcore.NetworkBackend):
    """Notes where it was to connect to; nobody is there."""

    connected: list[str] = attrs.field(factory=list)

    def connect_tcp(self, host: str, *_: Any, **__: Any) -> httpcore.NetworkStream:
        self.connected.append(host)
        raise httpcore.ConnectError


@attrs.define
class AsyncSockets(httpcore.AsyncNetworkBackend):
    connected: list[str] = attrs.field(factory=list)

    async def connect_tcp(self, host: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        self.connected.append(host)
        raise httpcore.ConnectError


@pytest.fixture
def rebound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Rebound())


def test_the_address_that_was_checked_is_connected_to(rebound: None) -> None:
    sockets = Sockets()
    guarded = GuardedSockets(Targets(origins=[]), sockets)

    with pytest.raises(httpcore.ConnectError):
        guarded.connect_tcp("hooks.example", 443)
    with pytest.raises(DeliveryError):
        guarded.connect_tcp("hooks.example", 443)

    assert sockets.connected == [PUBLIC]


def test_the_address_that_was_checked_is_connected_to_by_both_colours(rebound: None) -> None:
    sockets = AsyncSockets()

    async def twice() -> None:
        guarded = AsyncGuardedSockets(Targets(origins=[]), sockets)
        with pytest.raises(httpcore.ConnectError):
            await guarded.connect_tcp("hooks.example", 443)
        with pytest.raises(DeliveryError):
            await guarded.connect_tcp("hooks.example", 443)

    asyncio.run(twice())

    assert sockets.connected == [PUBLIC]


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "localhost", "[::1]"])
def test_this_machine_is_no_target_however_it_is_spelt(deliver: Deliver, host: str) -> None:
    url = f"https://{host}:9"

    with pytest.raises(DeliveryError, match="no allowed target"):
        deliver(event_of(), Endpoint(url, (OLD,)), Targets(origins=[url]))


@attrs.define
class Stream(httpcore.NetworkStream):
    """Notes whose certificate was wanted."""

    names: list[str | None]

    def start_tls(
        self, _: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        self.names.append(server_hostname)
        raise httpcore.ConnectError

    def close(self) -> None: ...


@attrs.define
class AsyncStream(httpcore.AsyncNetworkStream):
    names: list[str | None]

    async def start_tls(self, *_: Any, server_hostname: str | None = None, **__: Any) -> Any:
        self.names.append(server_hostname)
        raise httpcore.ConnectError

    async def aclose(self) -> None: ...


def test_the_certificate_is_checked_against_the_name(
    deliver: Deliver, rebound: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected: list[str] = []
    names: list[str | None] = []

    def connect(_: Any, host: str, *__: Any, **___: Any) -> Stream:
        connected.append(host)
        return Stream(names)

    async def aconnect(_: Any, host: str, *__: Any, **___: Any) -> AsyncStream:
        connected.append(host)
        return AsyncStream(names)

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", aconnect)
    url = "https://hooks.example"

    with pytest.raises(DeliveryError):
        deliver(event_of(), Endpoint(url, (OLD,)), Targets(origins=[url]))

    assert connected == [PUBLIC]
    assert names == ["hooks.example"]

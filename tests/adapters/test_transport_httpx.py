"""One request, sent once, and the truth about whether it may have left: both colours alike."""

import asyncio
import builtins
import importlib
import socket
import ssl
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import httpx
import pytest

from railcore.clock import Deadline
from railcore.errors import MisconfiguredError, SendDeadlinePassed, TransportError
from railcore.http import HttpRequest, HttpResponse
from railcore.ports import AsyncTransport, Transport
from railcore.redaction import Secret
from railcore_adapters.transport_httpx import (
    AsyncHttpxTransport,
    BearerAuthorizer,
    HttpxTransport,
    TimedTransport,
    TransportLimits,
)
from tests.adapters.raw_server import Peer, RawServer, answer_all, raw_server

QUICK = TransportLimits(total_s=2.0, connect_s=1.0)
IN_TIME = Deadline(1.0, lambda: 0.0)
Send = Callable[[HttpRequest], HttpResponse]


def too_late_once_connected() -> Deadline:
    """A deadline that is fine when first asked, and over after connecting."""
    return Deadline(1.0, iter([0.0, 2.0]).__next__)


@attrs.frozen
class Colour:
    """Sends in one colour, over one transport, what a test asks for."""

    name: str

    def send(
        self,
        *requests: HttpRequest,
        send_by: Deadline | None = IN_TIME,
        between: Callable[[], None] = lambda: None,
        **opening: Any,
    ) -> list[HttpResponse]:
        """Open a transport, send the requests one after the other, close it."""
        opening = {"limits": QUICK, **opening}
        if self.name == "sync":
            return self._send(requests, send_by, between, opening)
        return asyncio.run(self._asend(requests, send_by, between, opening))

    def _send(
        self,
        requests: tuple[HttpRequest, ...],
        send_by: Deadline | None,
        between: Callable[[], None],
        opening: Mapping[str, Any],
    ) -> list[HttpResponse]:
        answers = []
        with HttpxTransport.open(**opening) as opened:
            transport: Transport = opened
            for number, request in enumerate(requests):
                if number:
                    between()
                answers.append(transport.send(request, send_by))
        return answers

    async def _asend(
        self,
        requests: tuple[HttpRequest, ...],
        send_by: Deadline | None,
        between: Callable[[], None],
        opening: Mapping[str, Any],
    ) -> list[HttpResponse]:
        answers = []
        async with AsyncHttpxTransport.open(**opening) as opened:
            transport: AsyncTransport = opened
            for number, request in enumerate(requests):
                if number:
                    await asyncio.to_thread(between)
                answers.append(await transport.send(request, send_by))
        return answers


@pytest.fixture(params=["sync", "async"])
def colour(request: pytest.FixtureRequest) -> Colour:
    return Colour(request.param)


def pay(server: RawServer | str, **changed: Any) -> HttpRequest:
    url = server if isinstance(server, str) else f"{server.url}/charges"
    wanted = {"method": "POST", "url": url, "body": b"{}", "moves_money": True}
    return HttpRequest(**{**wanted, **changed})


def ask(server: RawServer, **changed: Any) -> HttpRequest:
    return HttpRequest(**{"method": "GET", "url": f"{server.url}/charges", **changed})


@pytest.fixture
def refusing() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/charges"


def lost(colour: Colour, request: HttpRequest, **options: Any) -> TransportError:
    with pytest.raises(TransportError) as caught:
        colour.send(request, **options)
    return caught.value


def test_an_answer_comes_whole(colour: Colour) -> None:
    with raw_server(answer_all) as server:
        (answer,) = colour.send(pay(server))

    assert (answer.status, answer.body) == (200, b"{}")
    assert answer.headers["x-trace"] == "a"


def test_a_request_goes_out_as_the_flow_wrote_it(colour: Colour) -> None:
    with raw_server(answer_all) as server:
        colour.send(pay(server, headers={"Idempotency-Key": "k-1"}, body=b'{"a": 1}'))

        (received,) = server.received

    head, _, body = received.partition(b"\r\n\r\n")
    names = {line.split(b":")[0].lower() for line in head.splitlines()[1:]}
    assert received.startswith(b"POST /charges HTTP/1.1\r\n")
    assert names == {b"host", b"accept-encoding", b"idempotency-key", b"content-length"}
    assert body == b'{"a": 1}'


def test_a_deadline_that_passes_while_connecting_lets_nothing_out(colour: Colour) -> None:
    with raw_server(answer_all) as server:
        error = lost(colour, pay(server), send_by=too_late_once_connected())

        assert isinstance(error, SendDeadlinePassed)
        assert error.may_have_left is False
        assert server.peer().closed.wait(5)
        assert len(server.peers) == 1
        assert server.received == [b""]


def test_a_deadline_that_has_passed_before_is_not_even_tried(colour: Colour) -> None:
    with raw_server(answer_all) as server:
        error = lost(colour, pay(server), send_by=Deadline(1.0, lambda: 2.0))

        assert isinstance(error, SendDeadlinePassed)
        assert server.peers == []


def test_a_deadline_is_read_on_a_kept_connection_too(colour: Colour) -> None:
    readings = iter([0.0, 0.0, 0.0, 2.0])
    with raw_server(answer_all) as server:
        error = lost_second(colour, server, Deadline(1.0, readings.__next__))

        assert isinstance(error, SendDeadlinePassed)
        assert len(server.peers) == 1
        assert server.count(b"POST") == 1


def lost_second(colour: Colour, server: RawServer, send_by: Deadline) -> TransportError:
    with pytest.raises(TransportError) as caught:
        colour.send(pay(server), pay(server), send_by=send_by)
    return caught.value


def test_money_never_moves_without_a_send_mark(colour: Colour) -> None:
    with raw_server(answer_all) as server:
        error = lost(colour, pay(server), send_by=None)

        assert error.may_have_left is False
        assert server.peers == []


def test_a_read_needs_no_send_mark(colour: Colour) -> None:
    with raw_server(answer_all) as server:
        (answer,) = colour.send(ask(server), send_by=None)

    assert answer.status == 200


def test_a_refused_connection_proves_that_nothing_left(colour: Colour, refusing: str) -> None:
    assert lost(colour, pay(refusing)).may_have_left is False


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://", "nonsense", "http://[::1"])
def test_an_impossible_address_proves_that_nothing_left(colour: Colour, url: str) -> None:
    assert lost(colour, pay(url)).may_have_left is False


@pytest.mark.parametrize("value", ["two\r\nlines", "ünïcode\u2603"])
def test_an_impossible_header_proves_that_nothing_left(colour: Colour, value: str) -> None:
    with raw_server(answer_all) as server:
        error = lost(colour, pay(server, headers={"Idempotency-Key": value}))

        assert error.may_have_left is False
        assert server.count(b"POST") == 0


def test_a_tls_handshake_that_fails_proves_that_nothing_left(colour: Colour) -> None:
    with raw_server(lambda peer: peer.say(b"not tls at all")) as server:
        error = lost(colour, pay(server.url.replace("http", "https")))

    assert error.may_have_left is False


def test_a_handshake_without_end_is_cut_off(colour: Colour) -> None:
    with raw_server(silent) as server:
        limits = attrs.evolve(QUICK, connect_s=0.2)
        error = lost(colour, pay(server.url.replace("http", "https")), limits=limits)

    assert error.may_have_left is False


def silent(peer: Peer) -> None:
    peer.read_request()
    while peer.connection.recv(65536):
        pass


def wait_for(event: threading.Event) -> None:
    assert event.wait(5)


def close_unread(peer: Peer) -> None:
    peer.read_request()


def reset(peer: Peer) -> None:
    peer.read_request()
    peer.reset()


def half(peer: Peer) -> None:
    peer.read_request()
    peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")


def garbage(peer: Peer) -> None:
    peer.read_request()
    peer.say(b"\x00\x01 this is no HTTP\r\n\r\n")


@pytest.mark.parametrize("behaviour", [close_unread, reset, half, garbage])
def test_an_answer_that_breaks_off_may_follow_a_sent_request(
    colour: Colour, behaviour: Callable[[Peer], None]
) -> None:
    with raw_server(behaviour) as server:
        error = lost(colour, pay(server))

        assert error.may_have_left is True
        assert server.count(b"POST") == 1


def test_a_silent_provider_is_given_up(colour: Colour) -> None:
    started = time.monotonic()
    with raw_server(silent) as server:
        error = lost(colour, pay(server, timeout_s=0.2))

    assert error.may_have_left is True
    assert time.monotonic() - started < 2


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"


@pytest.mark.parametrize("quickly", [b"", HEAD], ids=["head", "body"])
def test_a_slow_drip_is_cut_by_the_total(colour: Colour, quickly: bytes) -> None:
    def drip(peer: Peer) -> None:
        peer.read_request()
        peer.say(quickly)
        peer.drip(HEAD + b"x" * 100, 0.05)

    started = time.monotonic()
    with raw_server(drip) as server:
        error = lost(colour, pay(server, timeout_s=0.4))
        took_s = time.monotonic() - started

    assert error.may_have_left is True
    assert 0.3 < took_s < 1.5


def test_the_transports_limit_holds_where_a_request_asks_for_more(colour: Colour) -> None:
    started = time.monotonic()
    with raw_server(silent) as server:
        lost(colour, pay(server, timeout_s=60), limits=attrs.evolve(QUICK, total_s=0.2))

    assert time.monotonic() - started < 2


def test_an_answer_without_end_is_cut_off(colour: Colour) -> None:
    def flood(peer: Peer) -> None:
        peer.read_request()
        peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while True:
            peer.say(b"x" * 65536)

    with raw_server(flood) as server:
        error = lost(colour, pay(server), limits=attrs.evolve(QUICK, answer_bytes=100_000))

    assert error.may_have_left is True
    assert "100000 bytes" in str(error)


def test_a_connection_that_the_server_closed_meanwhile_is_not_used(colour: Colour) -> None:
    def once(peer: Peer) -> None:
        peer.read_request()
        peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with raw_server(once) as server:
        answers = colour.send(
            pay(server), pay(server), between=lambda: wait_for(server.peer().closed)
        )

        assert [answer.status for answer in answers] == [200, 200]
        assert server.count(b"POST") == 2
        assert len(server.peers) == 2


def test_a_kept_connection_that_dies_under_a_request_is_not_tried_again(colour: Colour) -> None:
    def dies_at_the_second(peer: Peer) -> None:
        peer.read_request()
        peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        peer.read_request()

    with raw_server(dies_at_the_second) as server:
        error = lost_second(colour, server, IN_TIME)

        assert error.may_have_left is True
        assert len(server.peers) == 1
        assert server.count(b"POST") == 2


def test_a_redirect_is_an_answer_like_any_other(colour: Colour) -> None:
    def redirect(peer: Peer) -> None:
        peer.read_request()
        peer.say(b"HTTP/1.1 307 Go\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")

    with raw_server(redirect) as server:
        (answer,) = colour.send(pay(server))

        assert answer.status == 307
        assert server.count(b"POST") == 1


def test_cookies_are_not_kept(colour: Colour) -> None:
    def sets_cookie(peer: Peer) -> None:
        while peer.read_request():
            peer.say(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")

    with raw_server(sets_cookie) as server:
        colour.send(pay(server), pay(server))

        assert server.count(b"ookie") == 0


def test_a_compressed_answer_is_left_as_it_came(colour: Colour) -> None:
    def compressed(peer: Peer) -> None:
        peer.read_request()
        peer.say(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b{}"
        )

    with raw_server(compressed) as server:
        (answer,) = colour.send(pay(server))

    assert answer.body == b"\x1f\x8b{}"


def test_the_environments_proxy_is_not_used(
    colour: Colour, refusing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, refusing)
    with raw_server(answer_all) as server:
        (answer,) = colour.send(pay(server))

    assert answer.status == 200


@attrs.frozen
class Known:
    """The credentials of one account."""

    account: tuple[str, str, str]
    value: str

    def secret(self, tenant_id: str, provider: str, account: str, /) -> Secret:
        if (tenant_id, provider, account) != self.account:
            raise MisconfiguredError(f"{tenant_id}/{provider}/{account}", "is unknown", "Add it")
        return Secret(self.value)


MAIN = ("acme", "stub", "main")
BEARER = BearerAuthorizer(Known(MAIN, "sk_canary"))


def test_an_account_authorizes_with_its_own_credential(colour: Colour) -> None:
    with raw_server(answer_all) as server:
        colour.send(pay(server, credentials_of=MAIN), authorizer=BEARER)

        assert server.count(b"authorization: Bearer sk_canary") == 1


def test_a_request_for_no_account_carries_no_credential(colour: Colour) -> None:
    with raw_server(answer_all) as server:
        colour.send(pay(server), authorizer=BEARER)

        assert server.count(b"uthorization") == 0


def test_an_unknown_account_sends_nothing(colour: Colour) -> None:
    with raw_server(answer_all) as server:
        with pytest.raises(MisconfiguredError, match="acme/stub/other"):
            colour.send(pay(server, credentials_of=("acme", "stub", "other")), authorizer=BEARER)

        assert server.peers == []


def test_an_authorizer_may_be_awaited_for() -> None:
    async def authorize(request: HttpRequest) -> Mapping[str, str]:
        await asyncio.sleep(0)
        return {"Authorization": f"Fetched for {request.method}"}

    with raw_server(answer_all) as server:
        Colour("async").send(pay(server), authorizer=authorize)

        assert server.count(b"Fetched for POST") == 1


def test_cf3_an_error_does_not_tell_the_credential(colour: Colour) -> None:
    with raw_server(close_unread) as server, pytest.raises(TransportError) as caught:
        colour.send(pay(server, credentials_of=MAIN), authorizer=BEARER)

    assert not [local for local in told_by(caught.value) if "sk_canary" in local]


def told_by(error: BaseException | None) -> Iterator[str]:
    """What a log with local variables would show of *error* and its causes, this file aside."""
    while error is not None:
        told = traceback.TracebackException.from_exception(error, capture_locals=True)
        yield from told.format_exception_only()
        for frame in told.stack:
            if frame.filename != __file__:
                yield from (frame.locals or {}).values()
        error = error.__cause__ or error.__context__


def test_waiting_for_a_connection_in_vain_proves_that_nothing_left() -> None:
    limits = attrs.evolve(QUICK, most_connections=1)
    errors = list[TransportError]()

    def second(transport: HttpxTransport, server: RawServer) -> None:
        server.wait_for(b"POST")
        with pytest.raises(TransportError) as caught:
            transport.send(pay(server, timeout_s=0.2), IN_TIME)
        errors.append(caught.value)

    with raw_server(silent) as server:
        with HttpxTransport.open(limits=limits) as transport:
            thread = threading.Thread(target=second, args=(transport, server))
            thread.start()
            with pytest.raises(TransportError):
                transport.send(pay(server, timeout_s=1.0), IN_TIME)
            thread.join()

        assert [error.may_have_left for error in errors] == [False]
        assert server.count(b"POST") == 1


async def test_waiting_for_a_connection_in_vain_proves_it_asynchronously_too() -> None:
    limits = attrs.evolve(QUICK, most_connections=1)
    with raw_server(silent) as server:
        async with AsyncHttpxTransport.open(limits=limits) as transport:
            first = asyncio.create_task(transport.send(pay(server, timeout_s=1.0), IN_TIME))
            await asyncio.to_thread(server.wait_for, b"POST")
            with pytest.raises(TransportError) as caught:
                await transport.send(pay(server, timeout_s=0.2), IN_TIME)
            with pytest.raises(TransportError):
                await first

        assert caught.value.may_have_left is False
        assert server.count(b"POST") == 1


async def test_cancelling_a_request_is_not_turned_into_an_answer() -> None:
    with raw_server(silent) as server:
        async with AsyncHttpxTransport.open(limits=QUICK) as transport:
            sending = asyncio.create_task(transport.send(pay(server), IN_TIME))
            await asyncio.to_thread(server.wait_for, b"POST")
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending


def mocked(answer: Callable[[httpx.Request], httpx.Response]) -> HttpxTransport:
    """A transport over a client of the host whose transport reports nothing."""
    return HttpxTransport(httpx.Client(transport=httpx.MockTransport(answer)))


def raising(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    return answer


@pytest.mark.parametrize(
    ("error", "may_have_left"),
    [
        (httpx.ReadTimeout("x"), True),
        (httpx.WriteError("x"), True),
        (httpx.RemoteProtocolError("x"), True),
        (httpx.TooManyRedirects("x"), True),
        (ConnectionResetError("x"), True),
        (httpx.ConnectError("x"), False),
        (httpx.ConnectTimeout("x"), False),
        (httpx.PoolTimeout("x"), False),
        (httpx.UnsupportedProtocol("x"), False),
    ],
)
def test_a_transport_that_reports_nothing_is_doubted(error: Exception, may_have_left: bool) -> None:
    with mocked(raising(error)) as transport, pytest.raises(TransportError) as caught:
        transport.send(pay("http://psp.example/"), IN_TIME)

    assert caught.value.may_have_left is may_have_left
    assert caught.value.__cause__ is error


def test_a_second_start_of_the_same_request_is_refused() -> None:
    def twice(request: httpx.Request) -> httpx.Response:
        for _ in range(2):
            request.extensions["trace"]("http11.send_request_headers.started", {})
        return httpx.Response(200)

    with mocked(twice) as transport, pytest.raises(TransportError, match="second time") as caught:
        transport.send(pay("http://psp.example/"), IN_TIME)

    assert caught.value.may_have_left is True


def test_a_proxys_tunnel_is_not_taken_for_the_request() -> None:
    connect = httpx.Request("CONNECT", "http://psp.example/")

    def tunnelled(request: httpx.Request) -> httpx.Response:
        tunnel = {"request": attrs.make_class("Request", {"method": attrs.field()})(b"CONNECT")}
        request.extensions["trace"]("http11.send_request_headers.started", tunnel)
        raise httpx.ProxyError("no way through", request=connect)

    with mocked(tunnelled) as transport, pytest.raises(TransportError) as caught:
        transport.send(pay("http://psp.example/"), IN_TIME)

    assert caught.value.may_have_left is False


def test_the_hosts_client_keeps_its_habits_to_itself() -> None:
    with raw_server(answer_all) as server:
        client = httpx.Client(
            transport=TimedTransport(QUICK),
            headers={"X-Habit": "1"},
            cookies={"a": "b"},
            auth=("user", "password"),
            follow_redirects=True,
        )
        with client:
            HttpxTransport(client).send(pay(server), IN_TIME)

        assert server.count(b"X-Habit") + server.count(b"ookie") + server.count(b"uthoriz") == 0


def test_a_timed_transport_serves_an_ordinary_client() -> None:
    with raw_server(answer_all) as server, httpx.Client(transport=TimedTransport()) as client:
        assert client.get(server.url).json() == {}


def test_the_certificates_can_be_chosen(colour: Colour) -> None:
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with raw_server(answer_all) as server:
        (answer,) = colour.send(pay(server), ssl_context=nobody)

    assert answer.status == 200


def test_without_httpx_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def missing(name: str, *more: Any) -> Any:
        if name == "httpx":
            raise ImportError(name)
        return load(name, *more)

    monkeypatch.delitem(sys.modules, "railcore_adapters.transport_httpx")
    monkeypatch.setattr(builtins, "__import__", missing)

    with pytest.raises(ImportError, match=r"railcore\[httpx\]"):
        importlib.import_module("railcore_adapters.transport_httpx")

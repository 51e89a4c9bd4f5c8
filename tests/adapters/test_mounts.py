"""The mounts answer 2xx only for what is stored, and refuse early what they need not read."""

import asyncio
import io
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal
from wsgiref.validate import validator

import attrs
import pytest

from railcore.errors import (
    InProgressError,
    StoreError,
    UnknownProviderError,
    WebhookRefusedError,
)
from railcore.webhooks import BODY_LIMIT, Headers, WebhookReceipt, WebhookVerdict, joined
from railcore_adapters.mounts import WebhookAsgi, WebhookWsgi

URL = "/api/v1/billing/webhook/stub"
Mount = Literal["asgi", "wsgi"]


@attrs.define
class FakeEngine:
    """Takes everything, or raises; remembers what was asked and in which order."""

    error: Exception | None = None
    apply_error: Exception | None = None
    log: list[Any] = attrs.field(factory=list)

    def receive_webhook(
        self, provider: str, headers: Headers, raw_body: bytes, account: str | None = None, /
    ) -> WebhookReceipt:
        self.log.append((provider, account, raw_body, joined(headers)))
        if self.error is not None:
            raise self.error
        return WebhookReceipt(
            verdict=WebhookVerdict.ACCEPTED, provider=provider, account="main", event_id="evt_1"
        )

    def apply_webhook(self, receipt: WebhookReceipt, /) -> WebhookReceipt:
        self.log.append("applied")
        if self.apply_error is not None:
            raise self.apply_error
        return receipt


@attrs.define
class AsyncFakeEngine:
    engine: FakeEngine

    async def receive_webhook(
        self, provider: str, headers: Headers, raw_body: bytes, account: str | None = None, /
    ) -> WebhookReceipt:
        return self.engine.receive_webhook(provider, headers, raw_body, account)

    async def apply_webhook(self, receipt: WebhookReceipt, /) -> WebhookReceipt:
        return self.engine.apply_webhook(receipt)


@attrs.define
class Caller:
    """Calls either mount as a server does."""

    mount: Mount
    engine: FakeEngine = attrs.field(factory=FakeEngine)

    def post(
        self,
        path: str = URL,
        body: bytes = b"{}",
        headers: Sequence[tuple[str, str]] = (),
        *,
        method: str = "POST",
        length: str | None = "",
    ) -> int:
        """Send one request; *length* is what it says, the true one by default."""
        said = str(len(body)) if length == "" else length
        pairs = [*headers, *([] if said is None else [("Content-Length", said)])]
        call = self._asgi if self.mount == "asgi" else self._wsgi
        return call(method, path, pairs, body)

    def _asgi(self, method: str, path: str, headers: Iterable[tuple[str, str]], body: bytes) -> int:
        sent: list[dict[str, Any]] = []
        chunks = [body[at : at + 1000] for at in range(0, len(body), 1000)] or [b""]
        messages = [
            {"type": "http.request", "body": chunk, "more_body": place + 1 < len(chunks)}
            for place, chunk in enumerate(chunks)
        ]

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            self.engine.log.append(message["type"])
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
        }
        asyncio.run(WebhookAsgi(AsyncFakeEngine(self.engine))(scope, receive, send))
        assert [one["type"] for one in sent] == ["http.response.start", "http.response.body"]
        if sent[0]["status"] == 413:
            assert len(messages) > 0 or len(body) <= BODY_LIMIT + 1000
        return int(sent[0]["status"])

    def _wsgi(self, method: str, path: str, headers: Iterable[tuple[str, str]], body: bytes) -> int:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "/api",
            "PATH_INFO": path.removeprefix("/api"),
            "QUERY_STRING": "",
            "SERVER_NAME": "shop.example",
            "SERVER_PORT": "443",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
        }
        for name, value in headers:
            key = name.upper().replace("-", "_")
            environ[key if key.startswith("CONTENT_L") else f"HTTP_{key}"] = value
        statuses: list[str] = []

        def start_response(status: str, _: Any) -> Callable[[bytes], object]:
            statuses.append(status)
            return lambda _: None

        application = WebhookWsgi(self.engine)
        answer: Any = application(environ, start_response)
        b"".join(answer)
        self.engine.log.append("http.response.body")
        answer.close()
        return int(statuses[0].split()[0])


@pytest.fixture(params=["asgi", "wsgi"])
def caller(request: pytest.FixtureRequest) -> Caller:
    return Caller(request.param)


def test_a_delivery_is_taken_answered_then_applied(caller: Caller) -> None:
    assert caller.post(body=b"\x00\xff", headers=[("Webhook-Id", "evt_1")]) == 200

    received, *rest = caller.engine.log
    assert received[:3] == ("stub", None, b"\x00\xff")
    assert received[3]["webhook-id"] == "evt_1"
    assert [one for one in rest if one != "http.response.start"] == [
        "http.response.body",
        "applied",
    ]


@pytest.mark.parametrize(
    ("path", "provider", "account"),
    [
        (f"{URL}/main", "stub", "main"),
        (f"{URL}/", "stub", None),
        ("/api/shop/webhook/stub/a.b-c", "stub", "a.b-c"),
    ],
)
def test_the_address_names_provider_and_account(
    caller: Caller, path: str, provider: str, account: str | None
) -> None:
    assert caller.post(path) == 200
    assert caller.engine.log[0][:2] == (provider, account)


@pytest.mark.parametrize(
    "path", ["/api/other", f"{URL}/a/b", "/api/v1/billing/webhook/", f"{URL}/{'a' * 65}"]
)
def test_there_is_nothing_elsewhere(caller: Caller, path: str) -> None:
    assert caller.post(path) == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
def test_only_posts_are_taken(caller: Caller, method: str) -> None:
    assert caller.post(method=method) == 405


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (WebhookRefusedError("stub", "forged"), 401),
        (UnknownProviderError("webhooks of 'x'", ()), 404),
        (InProgressError("event", None), 503),  # type: ignore[arg-type]  # the time is not used
        (StoreError("lost", may_have_committed=True), 500),
        (ZeroDivisionError(), 500),
    ],
)
def test_what_is_not_stored_is_never_a_success(
    caller: Caller, error: Exception, status: int
) -> None:
    caller.engine.error = error
    assert caller.post() == status
    assert "applied" not in caller.engine.log


def test_a_fault_after_the_answer_is_only_logged(
    caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    caller.engine.apply_error = StoreError("lost", may_have_committed=True)
    with caplog.at_level(logging.ERROR):
        assert caller.post() == 200
    assert "waits to be applied" in caplog.text


def test_a_body_at_the_limit_is_taken(caller: Caller) -> None:
    assert caller.post(body=b"a" * BODY_LIMIT) == 200


@pytest.mark.parametrize("length", ["", None], ids=["announced", "chunked"])
def test_wh9_a_body_over_the_limit_is_cut_off(caller: Caller, length: str | None) -> None:
    assert caller.post(body=b"a" * (4 * BODY_LIMIT), length=length) == 413
    assert all(one != "applied" and one[0] != "stub" for one in caller.engine.log)


def test_a_body_without_a_length_is_read_to_its_end(caller: Caller) -> None:
    assert caller.post(body=b"a" * 5000, length=None) == 200
    assert caller.engine.log[0][2] == b"a" * 5000


@pytest.mark.parametrize("length", ["-1", "two", "1e3", "\u0661"])
def test_a_length_that_is_none_is_malformed(caller: Caller, length: str) -> None:
    assert caller.post(length=length) == 400


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip"])
def test_wh9_what_is_compressed_is_not_unpacked(caller: Caller, encoding: str) -> None:
    assert caller.post(headers=[("Content-Encoding", encoding)]) == 415
    assert caller.post(headers=[("Content-Encoding", "Identity")]) == 200


def test_the_wsgi_mount_keeps_the_rules_of_wsgi() -> None:
    engine = FakeEngine()
    environ: dict[str, Any] = {"wsgi.input": io.BytesIO(b"{}"), "CONTENT_LENGTH": "2"}
    from wsgiref.util import setup_testing_defaults

    setup_testing_defaults(environ)
    environ.update(REQUEST_METHOD="POST", PATH_INFO=URL, SCRIPT_NAME="", QUERY_STRING="")

    def start_response(*_: Any) -> Callable[[bytes], object]:
        return lambda _: None

    checked: Any = validator(WebhookWsgi(engine))
    answer = checked(environ, start_response)
    assert list(answer) == [b"OK\n"]
    answer.close()
    assert engine.log[-1] == "applied"


def test_a_wsgi_body_that_ends_early_is_malformed() -> None:
    assert Caller("wsgi").post(body=b"{}", length="3") == 400


def test_a_provider_that_goes_away_has_delivered_nothing() -> None:
    engine = FakeEngine()
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": URL, "headers": []}
    asyncio.run(WebhookAsgi(AsyncFakeEngine(engine))(scope, receive, send))
    assert (sent[0]["status"], engine.log) == (400, [])


def test_the_asgi_mount_declines_what_is_not_http() -> None:
    async def never(*_: Any) -> Any:
        raise AssertionError

    with pytest.raises(NotImplementedError, match="lifespan"):
        asyncio.run(WebhookAsgi(AsyncFakeEngine(FakeEngine()))({"type": "lifespan"}, never, never))

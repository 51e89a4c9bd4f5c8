"""HTTP itself: bad requests are answered and hurt nobody else."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from railcore_adapters.sandbox import Sandbox
from railcore_adapters.sandbox.wire import Refusal, RequestReader
from tests.adapters.sandbox_caller import (
    API_KEY,
    Caller,
    charge_request,
    connect,
    exchange,
    read_to_end,
)

HEAD = b"POST /psp/v1/charges HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer " + API_KEY.encode()

MALFORMED = {
    b"hello\r\n\r\n": 400,
    b"\x16\x03\x01\x02\x00\x01\x00": 400,
    b"GET / HTTP/1.1\nHost: h\n\n": 400,
    b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n": 400,
    b"GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n": 400,
    b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost : h\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: h\r\n folded: x\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: h\r\nX: \x00\r\n\r\n": 400,
    b"GET / HTTP/2.0\r\nHost: h\r\n\r\n": 505,
    HEAD + b"\r\n\r\n": 411,
    HEAD + b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 501,
    HEAD + b"\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}": 501,
    HEAD + b"\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}": 417,
    HEAD + b"\r\nContent-Length: -1\r\n\r\n": 400,
    HEAD + b"\r\nContent-Length: 1_0\r\n\r\n": 400,
    HEAD + b"\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}": 400,
    HEAD + b"\r\nContent-Length: 65537\r\n\r\n": 413,
    HEAD + b"\r\nContent-Length: 999999999\r\n\r\n" + b"x" * 300_000: 413,
    HEAD + b"\r\nX: " + b"x" * 20_000 + b"\r\n\r\n": 431,
}
UNREADABLE = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 60_000, b'{"a":' + b"9" * 5000 + b"}"]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(delay_s=0.2) as sandbox:
        yield sandbox


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(("octets", "status"), MALFORMED.items(), ids=str)
def test_a_malformed_request_is_answered_as_an_error(
    sandbox: Sandbox, octets: bytes, status: int
) -> None:
    answer = exchange(sandbox, octets)
    assert status_of(answer) == status
    assert b"\r\nConnection: close\r\n" in answer
    assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("octets", MALFORMED, ids=str)
def test_a_malformed_request_hurts_no_other_connection(sandbox: Sandbox, octets: bytes) -> None:
    with Caller(sandbox) as caller:
        caller.charge("before")
        exchange(sandbox, octets)
        assert caller.charge("after").status_code == 201
    assert [charge.reference for charge in sandbox.ledger.charges] == ["before", "after"]


@pytest.mark.parametrize("body", UNREADABLE, ids=lambda body: repr(body[:8]))
def test_an_unreadable_body_is_400(sandbox: Sandbox, body: bytes) -> None:
    with Caller(sandbox) as caller:
        answer = caller.http.post("/psp/v1/charges", content=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
        assert caller.charge().status_code == 201


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/psp/v1/charges", 400),
        ("GET", "/psp/v1/charges?reference=%ff", 400),
        ("GET", "/psp/v1/charges/ch_1/more", 404),
        ("DELETE", "/psp/v1/charges/ch_1", 405),
        ("PATCH", "/bank/v1/payments", 405),
        ("DELETE", "/ledger", 405),
        ("DELETE", "/bank/authorize/pay_1", 405),
        ("GET", "/control/settings", 405),
    ],
)
def test_a_wrong_path_or_method_is_refused(
    sandbox: Sandbox, method: str, path: str, status: int
) -> None:
    with Caller(sandbox) as caller:
        answer = caller.http.request(method, path)
    assert answer.status_code == status
    assert ("Allow" in answer.headers) == (status == 405)


def test_one_connection_serves_many_requests(sandbox: Sandbox) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=5)
    connection.connect()
    socket_before = connection.sock
    for number in range(20):
        body = json.dumps(
            {
                "amount_minor": 5,
                "currency": "JPY",
                "instrument": "tok_visa",
                "reference": f"r-{number}",
            }
        )
        connection.request("POST", "/psp/v1/charges", body, {"Authorization": f"Bearer {API_KEY}"})
        answer = connection.getresponse()
        assert answer.status == 201
        answer.read()
    assert connection.sock is socket_before
    connection.close()
    assert len(sandbox.ledger.charges) == 20


@pytest.mark.parametrize(
    "octets",
    [
        charge_request("r-1", "tok_visa", "Connection: close"),
        charge_request("r-1").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["asked", "http-1.0"],
)
def test_a_connection_is_closed_when_the_client_wants_it(sandbox: Sandbox, octets: bytes) -> None:
    assert b"\r\nConnection: close\r\n" in exchange(sandbox, octets)


def test_a_request_cut_into_bytes_is_read_whole(sandbox: Sandbox) -> None:
    with connect(sandbox) as connection:
        for octet in charge_request("r-1", "tok_visa", "Connection: close"):
            connection.sendall(bytes([octet]))
        assert status_of(read_to_end(connection)) == 201


def test_pipelined_requests_are_answered_in_order(sandbox: Sandbox) -> None:
    octets = (
        charge_request("r-1", "tok_delay")
        + charge_request("r-2", "tok_declined")
        + charge_request("r-3", "tok_visa", "Connection: close")
    )
    answers = exchange(sandbox, octets).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"201", b"402", b"201"]
    assert [b'"r-%d"' % number in answer for number, answer in enumerate(answers, 1)] == [True] * 3


def test_a_flood_behind_a_late_answer_is_read_in_its_time(sandbox: Sandbox) -> None:
    flood = b"".join(charge_request(f"r-{number}") for number in range(2000))
    last = charge_request("last", "tok_visa", "Connection: close")
    answers = exchange(sandbox, charge_request("first", "tok_delay") + flood + last)
    assert answers.count(b"HTTP/1.1 201 ") == 2002
    assert len(sandbox.ledger.charges) == 2002


def test_a_half_sent_request_charges_nothing(sandbox: Sandbox) -> None:
    with connect(sandbox) as connection:
        connection.sendall(charge_request("r-1")[:-1])
    with Caller(sandbox) as caller:
        caller.charge("r-2")
    assert list(sandbox.ledger.by_reference()) == ["r-2"]


def test_a_slow_answer_holds_up_nobody_else(sandbox: Sandbox) -> None:
    sandbox.delay_s = 30
    with connect(sandbox) as connection, Caller(sandbox) as caller:
        connection.sendall(charge_request("slow", "tok_delay"))
        begun = time.monotonic()
        caller.charge("quick")
        assert time.monotonic() - begun < 5


@given(st.lists(st.binary(max_size=200), max_size=5))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_requests_or_one_refusal(pieces: list[bytes]) -> None:
    reader = RequestReader()
    for piece in pieces:
        reader.feed(piece)
        try:
            while reader.next() is not None:
                pass
        except Refusal:
            return


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_request_reads_the_same_however_it_is_cut(data: st.DataObject) -> None:
    octets = charge_request("r-1", "tok_visa", "Idempotency-Key: k-1")
    cuts = sorted(data.draw(st.sets(st.integers(1, len(octets) - 1), max_size=6)))
    whole, cut = RequestReader(), RequestReader()
    whole.feed(octets)
    wanted = whole.next()
    assert wanted is not None
    for begin, end in zip([0, *cuts], [*cuts, len(octets)], strict=True):
        assert cut.next() is None
        cut.feed(octets[begin:end])
    assert cut.next() == wanted

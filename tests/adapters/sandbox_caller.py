"""A caller of the sandbox: httpx for what is said well, a bare socket for the rest."""

from __future__ import annotations

import json
import socket
from types import TracebackType
from typing import Any, Self

import httpx

from railcore_adapters.sandbox import Sandbox

API_KEY = "sk_sandbox_main"


class Caller:
    """Says charges and payments to one sandbox."""

    def __init__(self, sandbox: Sandbox, api_key: str = API_KEY) -> None:
        self.http = httpx.Client(
            base_url=sandbox.url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=5,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.http.close()

    def charge(
        self,
        reference: str = "r-1",
        *,
        key: str | None = None,
        fault: str | None = None,
        **fields: Any,
    ) -> httpx.Response:
        order = {"amount_minor": 1250, "currency": "SAR", "instrument": "tok_visa"}
        return self._post(
            "/psp/v1/charges", {**order, "reference": reference, **fields}, key, fault
        )

    def pay(
        self,
        reference: str = "r-1",
        *,
        key: str | None = None,
        fault: str | None = None,
        **fields: Any,
    ) -> httpx.Response:
        order = {"amount_minor": 1250, "currency": "SAR", "return_url": "https://shop.example/back"}
        return self._post(
            "/bank/v1/payments", {**order, "reference": reference, **fields}, key, fault
        )

    def lookup(self, reference: str = "r-1", service: str = "psp/v1/charges") -> list[Any]:
        answer = self.http.get(f"/{service}", params={"reference": reference})
        assert answer.status_code == 200
        found = answer.json()["data"]
        assert isinstance(found, list)
        return found

    def _post(
        self,
        path: str,
        body: dict[str, Any],
        key: str | None,
        fault: str | None,
    ) -> httpx.Response:
        headers = {"Idempotency-Key": key, "X-Sandbox-Fault": fault}
        said = {name: value for name, value in headers.items() if value is not None}
        return self.http.post(path, content=json.dumps(body), headers=said)


def charge_request(reference: str, instrument: str = "tok_visa", *more: str) -> bytes:
    """The bytes of a charge, with *more* header lines."""
    order = {"amount_minor": 1250, "currency": "SAR", "reference": reference}
    body = json.dumps({**order, "instrument": instrument}).encode()
    lines = [
        "POST /psp/v1/charges HTTP/1.1",
        "Host: sandbox",
        f"Authorization: Bearer {API_KEY}",
        f"Content-Length: {len(body)}",
        *more,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def connect(sandbox: Sandbox) -> socket.socket:
    """A bare connection to *sandbox*."""
    return socket.create_connection(("127.0.0.1", sandbox.port), timeout=5)


def read_to_end(connection: socket.socket) -> bytes:
    """Everything that comes until the sandbox closes."""
    octets = b""
    while piece := connection.recv(65536):
        octets += piece
    return octets


def exchange(sandbox: Sandbox, octets: bytes) -> bytes:
    """Send *octets*, say no more, and return everything that comes back."""
    with connect(sandbox) as connection:
        connection.sendall(octets)
        return read_to_end(connection)

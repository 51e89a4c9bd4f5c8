"""The connections of the asynchronous transport: one request at a time on each."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from railcore_adapters._lanes import LanesTransport
from railcore_adapters.sandbox import Sandbox


@pytest.fixture
def slow_sandbox() -> Any:
    with Sandbox(latency_s=0.02) as sandbox:
        yield sandbox


@pytest.fixture
async def lanes() -> AsyncIterator[httpx.AsyncClient]:
    transport = LanesTransport(
        most_connections=4,
        most_idle=2,
        idle_s=30.0,
        ssl_context=httpx.create_ssl_context(trust_env=False),
    )
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        yield client


async def get(client: httpx.AsyncClient, url: str, steps: list[str]) -> int:
    """Look something up, and note the steps that httpcore reports."""

    async def trace(step: str, _: object) -> None:
        steps.append(step)

    answer = await client.get(
        f"{url}/psp/v1/charges?reference=r-1",
        headers={"Authorization": "Bearer sk_sandbox_main"},
        extensions={"trace": trace},
    )
    return answer.status_code


def connects(steps: list[str]) -> int:
    return steps.count("connection.connect_tcp.started")


async def test_requests_one_after_the_other_share_a_connection(
    lanes: httpx.AsyncClient, slow_sandbox: Sandbox
) -> None:
    steps = list[str]()

    for _ in range(5):
        assert await get(lanes, slow_sandbox.url, steps) == 200

    assert connects(steps) == 1


async def test_no_more_requests_are_under_way_than_there_is_room_for(
    lanes: httpx.AsyncClient, slow_sandbox: Sandbox
) -> None:
    steps = list[str]()

    await asyncio.gather(*(get(lanes, slow_sandbox.url, steps) for _ in range(12)))

    under_way = most = 0
    for step in steps:
        under_way += step == "http11.send_request_headers.started"
        under_way -= step == "http11.response_closed.complete"
        most = max(most, under_way)
    assert most == 4


async def test_no_request_is_overtaken_by_one_that_came_later(
    lanes: httpx.AsyncClient, slow_sandbox: Sandbox
) -> None:
    done = list[int]()

    async def one(number: int) -> None:
        await get(lanes, slow_sandbox.url, [])
        done.append(number // 4)

    await asyncio.gather(*(one(number) for number in range(40)))

    assert done == sorted(done)


async def test_unused_connections_are_kept_up_to_a_limit(
    lanes: httpx.AsyncClient, slow_sandbox: Sandbox
) -> None:
    first, second = list[str](), list[str]()
    await asyncio.gather(*(get(lanes, slow_sandbox.url, first) for _ in range(4)))

    await asyncio.gather(*(get(lanes, slow_sandbox.url, second) for _ in range(4)))

    assert (connects(first), connects(second)) == (4, 2)


async def test_a_cancelled_request_gives_its_room_back(
    lanes: httpx.AsyncClient, slow_sandbox: Sandbox
) -> None:
    slow_sandbox.latency_s = 30.0
    stuck = [asyncio.create_task(get(lanes, slow_sandbox.url, [])) for _ in range(4)]
    await asyncio.sleep(0.1)
    for task in stuck:
        task.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)
    slow_sandbox.latency_s = 0.0

    async with asyncio.timeout(5):
        assert await get(lanes, slow_sandbox.url, []) == 200

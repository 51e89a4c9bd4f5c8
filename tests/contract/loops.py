"""An event loop in a thread of its own, so that callers that block can use what is asynchronous."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any


class Blocking:
    """Runs coroutines in *loop* and waits for them, from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __call__(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)


@contextmanager
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A running event loop; on leaving, what is under way in it (a connection given back) ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
        Blocking(loop)(rest())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def rest() -> None:
    """Wait for what is under way: a pool that is closed before would lose connections."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)

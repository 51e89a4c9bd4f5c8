"""A relay in a process of its own, until all is out: ``relay_process.py DATABASE NATS STREAM``."""

import asyncio
import sys

from sqlalchemy.ext.asyncio import create_async_engine

from railcore.relay import AsyncRelay, RelaySettings
from railcore_adapters.sinks import FastStreamSink
from railcore_sqlalchemy.outbox import AsyncSqlOutbox

LEASE_S = 4.0


async def relay(database: str, nats: str, stream: str) -> None:
    engine = create_async_engine(database)
    outbox = AsyncSqlOutbox(engine)
    sink = FastStreamSink.nats(nats, stream, stream, least_window_s=0, timeout_s=1.5)
    settings = RelaySettings(owner="relay", lease_s=LEASE_S, first_retry_s=0.1, last_retry_s=1)
    async with sink:
        relaying = AsyncRelay(outbox, sink, settings, gather=asyncio.gather)
        while (await outbox.backlog()).waiting:
            if not await relaying.drain():
                await asyncio.sleep(0.1)  # what is left is in a bucket that somebody died with
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(relay(*sys.argv[1:]))

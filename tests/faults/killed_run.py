"""
``railcore`` in a process that kills itself: ``killed_run.py POINT NTH run FILE ...``.

It is the ordinary command over a store, a transport and a wallet that count how often a point is
reached, and end the process there with SIGKILL, as a power cut would.
"""

import os
import signal
import sys
from typing import Any

from railcore_adapters.cli import main, wiring
from railcore_adapters.transport_httpx import AsyncHttpxTransport
from railcore_sqlalchemy.stores import AsyncSqlExecutionStore
from railcore_sqlalchemy.wallet import AsyncSqlWalletRepository


class Killer:
    """Kills this process when it has come to *point* for the *nth* time."""

    def __init__(self, point: str, nth: int) -> None:
        self.point = point
        self.left = nth

    def reached(self, point: str) -> None:
        self.left -= point == self.point
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def arm(killer: Killer) -> None:
    """Replace what the command line is wired from with parts that report to *killer*."""

    class Store(AsyncSqlExecutionStore):
        async def claim(self, claim: Any, /) -> Any:
            killer.reached("before_claim")
            outcome = await super().claim(claim)
            killer.reached("after_claim")
            return outcome

        async def record(self, recording: Any, /) -> Any:
            killer.reached("before_record")
            return await super().record(recording)

    class Transport(AsyncHttpxTransport):
        async def send(self, request: Any, send_by: Any, /) -> Any:
            try:
                return await super().send(request, send_by)
            finally:
                if request.moves_money:
                    killer.reached("after_send")

    class Wallet(AsyncSqlWalletRepository):
        async def answer(self, ask: Any, send_by: Any, /) -> Any:
            outcome = await super().answer(ask, send_by)
            killer.reached("after_send")
            return outcome

    parts = (
        ("AsyncSqlExecutionStore", Store),
        ("AsyncHttpxTransport", Transport),
        ("AsyncSqlWalletRepository", Wallet),
    )
    for name, part in parts:
        setattr(wiring, name, part)


if __name__ == "__main__":
    arm(Killer(sys.argv[1], int(sys.argv[2])))
    main(sys.argv[3:])

"""`Sandbox`: the fake providers on a port of this machine, in a thread of this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from railcore_adapters.sandbox.application import Application
from railcore_adapters.sandbox.bank import Bank
from railcore_adapters.sandbox.control import Control
from railcore_adapters.sandbox.faults import FaultQueue, When, find_fault
from railcore_adapters.sandbox.hyperpay import Charges, HyperPay
from railcore_adapters.sandbox.ledger import Ledger
from railcore_adapters.sandbox.psp import Psp
from railcore_adapters.sandbox.server import HOST, Server
from railcore_adapters.sandbox.settings import Settings
from railcore_adapters.sandbox.webhooks import WebhookSender
from railcore_adapters.sandbox.wire import Refusal

DEFAULT_ACCOUNTS: Final = {"main": "sk_sandbox_main"}


@dataclass(eq=False, kw_only=True)
class Sandbox(Settings):
    """
    A fake PSP and a fake bank over real HTTP on loopback, with a ledger of truth.

    It serves between `start` and `stop`, or inside a ``with``. It may be started again: it keeps
    its port, its ledger and its keys, so that stopping it is an outage of the providers.

    Attributes:
        port: Where to listen; 0 takes any free port and then stays with it.
        accounts: The API key of each account. May be changed at any moment.
        ledger: What was really charged.
        psp: The fake PSP: `settle` and `decline` its pending charges.
        bank: The fake bank: `approve`, `reject`, `settle` and `expire` its payments.
        hyperpay: A PSP of its own that speaks as HyperPay does: `pay` its checkouts.
        webhooks: Tells of what became of charges and payments, once it has a URL.

    >>> with Sandbox(delay_s=0.1) as sandbox:
    ...     sandbox.ledger.charges
    ()
    """

    port: int = 0
    accounts: dict[str, str] = field(default_factory=DEFAULT_ACCOUNTS.copy)
    ledger: Ledger = field(init=False, repr=False, default_factory=Ledger)
    psp: Psp = field(init=False, repr=False)
    bank: Bank = field(init=False, repr=False)
    hyperpay: HyperPay = field(init=False, repr=False)
    webhooks: WebhookSender = field(default_factory=WebhookSender, repr=False)

    def __post_init__(self) -> None:
        self._faults = FaultQueue()
        self.psp = Psp(self.ledger, self, self._faults)
        self.bank = Bank(self.ledger, self, self._faults, lambda: self.url)
        self.psp.announce = self.bank.announce = self.webhooks.announce
        self.hyperpay = HyperPay(Charges(self.ledger, self, self._faults), lambda: self.url)
        control = Control(self.psp, self.bank, self._faults, self, self.webhooks)
        application = Application(
            self.accounts, self.ledger, self.psp, self.bank, self.hyperpay, control
        )
        self._server = Server(application.handle, lambda: self.drip_interval_s)

    @property
    def url(self) -> str:
        """
        The base URL, without a slash at the end.

        Raises:
            RuntimeError: The sandbox was never started, so it has no port yet.
        """
        if not self.port:
            raise RuntimeError("The sandbox has no URL yet: use it in a with, or call start().")
        return f"http://{HOST}:{self.port}"

    def start(self) -> Self:
        """
        Begin to serve.

        Raises:
            OSError: The port is taken.
        """
        self.port = self._server.start(self.port)
        return self

    def stop(self) -> None:
        """Close all connections and stop serving; a second time changes nothing."""
        self._server.stop()
        self.webhooks.stop()
        self.hyperpay.webhooks.stop()

    def fail_next(self, count: int, fault: str, *, when: When = "create") -> None:
        """
        Let the next *count* requests suffer *fault*, whatever they ask for themselves.

        Args:
            count: How many requests.
            fault: A name from the table, with or without ``tok_``.
            when: ``create`` for POSTs of charges and payments, resends included; ``lookup`` for
                their GETs.

        Raises:
            ValueError: There is no such fault, or it cannot hit a lookup.
        """
        try:
            found = find_fault(fault)
        except Refusal as refusal:
            raise ValueError(refusal.message) from refusal
        self._faults.put(count, found, when)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

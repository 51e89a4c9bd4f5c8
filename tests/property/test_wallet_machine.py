"""Any transfers in any order: wallets in memory and in PostgreSQL do what a replayed list does."""

from collections.abc import Iterator
from typing import Final
from uuid import UUID, uuid4

import attrs
import pytest
import sqlalchemy
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from railcore.clock import SystemClock
from railcore.money import KWD, SAR, Currency, Money
from railcore.ports import WalletRepository
from railcore.testing.wallet import InMemoryWalletRepository
from railcore.wallet import (
    TransferKind,
    TransferVerdict,
    WalletAccount,
    WalletAccountKind,
    WalletTransfer,
    expiry_of,
    release_of,
)
from railcore_sqlalchemy.wallet import SqlWalletRepository

CUSTOMERS: Final = frozenset({"ann", "bob"})
OPEN: Final = {(name, SAR) for name in ("ann", "bob", "till", "bank")} | {
    (name, KWD) for name in ("ann", "till")
}
LONG_S: Final = 3600.0
OVER_S: Final = 1e-6
"""A hold this short is over before the next statement begins."""

pairs = st.permutations(["ann", "bob", "till", "bank", "nobody"]).map(lambda names: names[:2])
amounts = st.one_of(st.integers(1, 60), st.integers(1, 2**40))
currencies = st.sampled_from([SAR, SAR, SAR, KWD])
holds_s = st.sampled_from([LONG_S, LONG_S, OVER_S])


class Model:
    """The transfers that were made, replayed for every question."""

    def __init__(self) -> None:
        self.made: dict[UUID, WalletTransfer] = {}

    def resolution(self, hold: UUID) -> WalletTransfer | None:
        return next((one for one in self.made.values() if one.pending_id == hold), None)

    def balance(self, name: str, currency: Currency) -> tuple[int, int]:
        posted = held = 0
        for one in self.made.values():
            if one.amount.currency != currency:
                continue
            if one.kind in {TransferKind.SINGLE, TransferKind.POST}:
                sign = (one.credit_account == name) - (one.debit_account == name)
                posted += sign * one.amount.amount_minor
            is_open = one.kind is TransferKind.PENDING and self.resolution(one.transfer_id) is None
            if is_open and one.debit_account == name:
                held += one.amount.amount_minor
        return posted, held

    def take(self, asked: WalletTransfer) -> TransferVerdict:
        verdict = self._judge(asked)
        if verdict is TransferVerdict.APPLIED:
            self.made[asked.transfer_id] = asked
        return verdict

    def expired(self) -> list[WalletTransfer]:
        return [
            one
            for one in self.made.values()
            if one.hold_s == OVER_S and self.resolution(one.transfer_id) is None
        ]

    def _judge(self, asked: WalletTransfer) -> TransferVerdict:
        if asked.transfer_id in self.made:
            same = self.made[asked.transfer_id] == asked
            return TransferVerdict.KNOWN if same else TransferVerdict.DIFFERS
        currency = asked.amount.currency
        for name in (asked.debit_account, asked.credit_account):
            if (name, currency) not in OPEN:
                elsewhere = any(name == other for other, _ in OPEN)
                return TransferVerdict.WRONG_CURRENCY if elsewhere else TransferVerdict.NO_ACCOUNT
        if asked.pending_id is not None:
            return self._judge_resolution(asked, self.made.get(asked.pending_id))
        posted, held = self.balance(asked.debit_account, currency)
        if asked.debit_account in CUSTOMERS and posted - held < asked.amount.amount_minor:
            return TransferVerdict.INSUFFICIENT_FUNDS
        return TransferVerdict.APPLIED

    def _judge_resolution(
        self, asked: WalletTransfer, hold: WalletTransfer | None
    ) -> TransferVerdict:
        if hold is None or hold.kind is not TransferKind.PENDING:
            return TransferVerdict.HOLD_NOT_FOUND
        if self.resolution(hold.transfer_id) is not None:
            return TransferVerdict.HOLD_RESOLVED
        if asked.kind is TransferKind.VOID:
            return TransferVerdict.APPLIED
        if asked.amount > hold.amount:
            return TransferVerdict.AMOUNT_EXCEEDS_HOLD
        return TransferVerdict.HOLD_EXPIRED if hold.hold_s == OVER_S else TransferVerdict.APPLIED


class WalletMachine(RuleBasedStateMachine):
    """Asks a wallet and the model the same, and compares each answer."""

    transfers = Bundle("transfers")
    holds = Bundle("holds")

    def __init__(self, wallet: WalletRepository) -> None:
        super().__init__()
        self.wallet = wallet
        self.model = Model()
        self.tenant_id = f"tenant-{uuid4()}"
        for name, currency in sorted(OPEN, key=str):
            customer = name in CUSTOMERS
            wallet.open_account(
                WalletAccount(
                    tenant_id=self.tenant_id,
                    account_id=name,
                    currency=currency,
                    kind=WalletAccountKind.CUSTOMER if customer else WalletAccountKind.HOUSE,
                )
            )

    def ask(self, asked: WalletTransfer) -> WalletTransfer:
        assert self.wallet.transfer(asked).verdict is self.model.take(asked)
        return asked

    def a_single(self, pair: list[str], minor: int, currency: Currency) -> WalletTransfer:
        return WalletTransfer(
            transfer_id=uuid4(),
            tenant_id=self.tenant_id,
            debit_account=pair[0],
            credit_account=pair[1],
            amount=Money(minor, currency),
        )

    @rule(target=transfers, name=st.sampled_from(sorted(CUSTOMERS)), minor=st.integers(1, 100))
    def top_up(self, name: str, minor: int) -> WalletTransfer:
        return self.ask(self.a_single(["bank", name], minor, SAR))

    @rule(target=transfers, pair=pairs, minor=amounts, currency=currencies)
    def move(self, pair: list[str], minor: int, currency: Currency) -> WalletTransfer:
        return self.ask(self.a_single(pair, minor, currency))

    @rule(target=holds, pair=pairs, minor=amounts, currency=currencies, hold_s=holds_s)
    def hold(
        self, pair: list[str], minor: int, currency: Currency, hold_s: float
    ) -> WalletTransfer:
        single = self.a_single(pair, minor, currency)
        return self.ask(
            attrs.evolve(single, kind=TransferKind.PENDING, hold_s=hold_s, reference=uuid4())
        )

    @rule(target=transfers, hold=holds, less=st.integers(-1, 5))
    def post(self, hold: WalletTransfer, less: int) -> WalletTransfer:
        minor = max(1, hold.amount.amount_minor - less)
        return self.ask(
            attrs.evolve(
                hold,
                transfer_id=uuid4(),
                kind=TransferKind.POST,
                pending_id=hold.transfer_id,
                hold_s=None,
                amount=Money(minor, hold.amount.currency),
            )
        )

    @rule(target=transfers, hold=st.one_of(holds, consumes(holds)))
    def void(self, hold: WalletTransfer) -> WalletTransfer:
        return self.ask(release_of(hold, str(uuid4()), "release"))

    @rule(asked=st.one_of(transfers, holds))
    def repeat(self, asked: WalletTransfer) -> None:
        self.ask(asked)

    @rule(asked=transfers)
    def change(self, asked: WalletTransfer) -> None:
        if asked.kind is not TransferKind.VOID:
            self.ask(attrs.evolve(asked, amount=asked.amount + Money(1, asked.amount.currency)))

    @rule()
    def expire(self) -> None:
        expired = self.model.expired()
        assert self.wallet.expire_holds(1000) == len(expired)
        for hold in expired:
            assert self.model.take(expiry_of(hold)) is TransferVerdict.APPLIED

    @rule(asked=st.one_of(transfers, holds))
    def look(self, asked: WalletTransfer) -> None:
        found = self.wallet.find(self.tenant_id, asked.transfer_id)

        assert found.transfer == self.model.made.get(asked.transfer_id)
        if asked.kind is TransferKind.PENDING:
            assert found.resolution == self.model.resolution(asked.transfer_id)
            assert asked.reference is not None
            named = self.wallet.find_referenced(self.tenant_id, asked.reference)
            assert named.transfer == self.model.made.get(asked.transfer_id)

    @invariant()
    def balances_are_those_of_the_replay(self) -> None:
        for currency in (SAR, KWD):
            total = 0
            for name, of in OPEN:
                if of == currency:
                    total += self.compare(name, currency)
            assert total == 0

    def compare(self, name: str, currency: Currency) -> int:
        found = self.wallet.balance(self.tenant_id, name, currency)
        assert found is not None
        assert (found.posted, found.held) == self.model.balance(name, currency)
        assert name not in CUSTOMERS or found.available >= 0
        return found.posted

    def teardown(self) -> None:
        self.wallet.expire_holds(1000)


def machine_on(wallet: WalletRepository) -> type[RuleBasedStateMachine]:
    class MachineOnWallet(WalletMachine):
        def __init__(self) -> None:
            super().__init__(wallet)

    return MachineOnWallet


SETTINGS = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture
def wallet_in_postgres(database_url: str) -> Iterator[SqlWalletRepository]:
    engine = sqlalchemy.create_engine(database_url)
    yield SqlWalletRepository(engine)
    engine.dispose()


def test_a_wallet_in_memory_does_what_the_model_does() -> None:
    wallet = InMemoryWalletRepository(SystemClock())

    run_state_machine_as_test(machine_on(wallet), settings=SETTINGS)


def test_a_wallet_in_postgres_does_what_the_model_does(
    wallet_in_postgres: SqlWalletRepository,
) -> None:
    # Shrinking takes minutes there; a mistake of both is shrunk in memory.
    few = settings(SETTINGS, max_examples=15, phases=[Phase.reuse, Phase.generate])

    run_state_machine_as_test(machine_on(wallet_in_postgres), settings=few)

"""
What every wallet promises.

Subclass it in your tests and give it a repository, for instance::

    class TestMyWallet(WalletRepositoryContract):
        @pytest.fixture
        def repository(self) -> WalletRepository:
            return MyWallet(...)

An asynchronous wallet passes it as ``Blocking(wallet, run)``.
"""

import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

import attrs
import pytest

from railcore.clock import Deadline
from railcore.errors import MisconfiguredError, SendDeadlinePassed, StoreError
from railcore.money import KWD, SAR, USD, Currency, Money
from railcore.ports import AsyncWalletRepository, WalletRepository
from railcore.wallet import (
    FindReferenced,
    FindTransfer,
    PostTransfer,
    TransferKind,
    TransferOutcome,
    TransferVerdict,
    WalletAccount,
    WalletAccountKind,
    WalletAsk,
    WalletBalance,
    WalletTransfer,
    expiry_of,
    release_of,
)

Result = TypeVar("Result")
Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end; from several threads at once, if the races are to be real."""

_LONG: Final = 3600.0
_SHORT: Final = 0.02


@attrs.frozen
class Blocking:
    """An asynchronous wallet as a synchronous one, so that both colours pass the same contract."""

    wallet: AsyncWalletRepository
    run: Run

    def open_account(self, account: WalletAccount, /) -> bool:
        """Open an account; whether it is new."""
        return bool(self.run(self.wallet.open_account(account)))

    def transfer(self, transfer: WalletTransfer, /) -> TransferOutcome:
        """Put a transfer into the books, once."""
        return self._outcome(self.wallet.transfer(transfer))

    def find(self, tenant_id: str, transfer_id: UUID, /) -> TransferOutcome:
        """Return a transfer by its id."""
        return self._outcome(self.wallet.find(tenant_id, transfer_id))

    def find_referenced(self, tenant_id: str, reference: UUID, /) -> TransferOutcome:
        """Return the transfer of an execution."""
        return self._outcome(self.wallet.find_referenced(tenant_id, reference))

    def balance(
        self, tenant_id: str, account_id: str, currency: Currency, /
    ) -> WalletBalance | None:
        """Return what an account has."""
        found: WalletBalance | None = self.run(self.wallet.balance(tenant_id, account_id, currency))
        return found

    def expire_holds(self, limit: int, /) -> int:
        """Release holds whose time is over."""
        return int(self.run(self.wallet.expire_holds(limit)))

    def answer(self, ask: WalletAsk, send_by: Deadline | None, /) -> TransferOutcome:
        """Answer one thing that a flow asks for."""
        return self._outcome(self.wallet.answer(ask, send_by))

    def _outcome(self, coroutine: Coroutine[Any, Any, TransferOutcome]) -> TransferOutcome:
        outcome: TransferOutcome = self.run(coroutine)
        return outcome


@attrs.frozen
class Books:
    """One customer and one house account, and short ways to move money between them."""

    repository: WalletRepository
    tenant_id: str = attrs.field(factory=lambda: f"tenant-{uuid4()}")
    customer: str = "customer"
    house: str = "house"

    def open(self, *currencies: Currency) -> "Books":
        """Open both accounts in each currency."""
        for currency in currencies:
            for account_id, kind in (
                (self.customer, WalletAccountKind.CUSTOMER),
                (self.house, WalletAccountKind.HOUSE),
            ):
                account = WalletAccount(
                    tenant_id=self.tenant_id, account_id=account_id, currency=currency, kind=kind
                )
                assert self.repository.open_account(account)
        return self

    def top_up(self, amount: Money) -> WalletTransfer:
        """Give the customer *amount*."""
        single = self.single(amount)
        back = attrs.evolve(single, debit_account=self.house, credit_account=self.customer)
        assert self.repository.transfer(back).verdict is TransferVerdict.APPLIED
        return back

    def single(self, amount: Money) -> WalletTransfer:
        """Return a transfer of *amount* from the customer to the house."""
        return WalletTransfer(
            transfer_id=uuid4(),
            tenant_id=self.tenant_id,
            debit_account=self.customer,
            credit_account=self.house,
            amount=amount,
        )

    def pending(
        self, amount: Money, *, hold_s: float = _LONG, reference: UUID | None = None
    ) -> WalletTransfer:
        """Return a hold of *amount*."""
        return attrs.evolve(
            self.single(amount), kind=TransferKind.PENDING, hold_s=hold_s, reference=reference
        )

    def hold(
        self, amount: Money, *, hold_s: float = _LONG, reference: UUID | None = None
    ) -> WalletTransfer:
        """Reserve *amount* and return the hold."""
        hold = self.pending(amount, hold_s=hold_s, reference=reference)
        assert self.repository.transfer(hold).verdict is TransferVerdict.APPLIED
        return hold

    def verdict(self, transfer: WalletTransfer) -> TransferVerdict:
        """Return what becomes of *transfer*."""
        return self.repository.transfer(transfer).verdict

    def of_customer(self, currency: Currency = SAR) -> tuple[int, int]:
        """Return what the customer has posted and held."""
        return self._of(self.customer, currency)

    def of_house(self, currency: Currency = SAR) -> tuple[int, int]:
        """Return what the house has posted and held."""
        return self._of(self.house, currency)

    def _of(self, account_id: str, currency: Currency) -> tuple[int, int]:
        found = self.repository.balance(self.tenant_id, account_id, currency)
        assert found is not None
        return found.posted, found.held


def posting(hold: WalletTransfer, amount_minor: int | None = None) -> WalletTransfer:
    """Return a transfer that debits *hold*, all of it or *amount_minor*."""
    money = Money(amount_minor or hold.amount.amount_minor, hold.amount.currency)
    return attrs.evolve(
        hold,
        transfer_id=uuid4(),
        kind=TransferKind.POST,
        pending_id=hold.transfer_id,
        hold_s=None,
        amount=money,
        reference=None,
    )


def releasing(hold: WalletTransfer) -> WalletTransfer:
    """Return a transfer that releases *hold*."""
    return release_of(hold, str(uuid4()), "release")


def race(*moves: Callable[[], Result]) -> list[Result]:
    """Return what *moves* return when they all start at the same moment."""
    together = threading.Barrier(len(moves))

    def run(move: Callable[[], Result]) -> Result:
        together.wait()
        return move()

    with ThreadPoolExecutor(len(moves)) as pool:
        return list(pool.map(run, moves))


def pause(seconds: float) -> None:
    """Wait until at least *seconds* have passed on the wallet's own clock."""
    threading.Event().wait(seconds)


class WalletRepositoryContract:
    """
    The promises of ``WalletRepository``. Override the fixture ``repository``.

    Each test has a tenant of its own, so one wallet may serve them all, one after the other.
    """

    @pytest.fixture
    def repository(self) -> WalletRepository:
        """Return the wallet that is tested, without holds of anybody else."""
        pytest.fail("override the fixture `repository` to return the wallet that is to be tested")

    @pytest.fixture
    def books(self, repository: WalletRepository) -> Books:
        """Return open accounts in riyals and dinars, with 100.00 riyals on the customer's."""
        books = Books(repository).open(SAR, KWD)
        books.top_up(Money(10_000, SAR))
        return books

    def test_an_account_is_opened_once(self, repository: WalletRepository) -> None:
        account = WalletAccount(tenant_id=str(uuid4()), account_id="a", currency=SAR)

        assert repository.open_account(account)
        assert not repository.open_account(account)

    def test_an_account_never_changes_its_kind(self, books: Books) -> None:
        as_house = WalletAccount(
            tenant_id=books.tenant_id,
            account_id=books.customer,
            currency=SAR,
            kind=WalletAccountKind.HOUSE,
        )

        with pytest.raises(MisconfiguredError, match="customer"):
            books.repository.open_account(as_house)

    def test_currencies_and_tenants_have_books_of_their_own(self, books: Books) -> None:
        other = Books(books.repository).open(SAR)

        assert books.of_customer(SAR) == (10_000, 0)
        assert books.of_customer(KWD) == (0, 0)
        assert other.of_customer(SAR) == (0, 0)
        assert books.verdict(books.single(Money(1, KWD))) is TransferVerdict.INSUFFICIENT_FUNDS

    def test_an_unknown_account_has_no_balance(self, books: Books) -> None:
        assert books.repository.balance(books.tenant_id, "nobody", SAR) is None
        assert books.repository.balance(books.tenant_id, books.customer, USD) is None

    def test_a_transfer_moves_from_one_account_to_the_other(self, books: Books) -> None:
        assert books.verdict(books.single(Money(2_500, SAR))) is TransferVerdict.APPLIED

        assert books.of_customer() == (7_500, 0)
        assert books.of_house() == (-7_500, 0)

    def test_a_house_account_has_no_limit(self, books: Books) -> None:
        books.top_up(Money(2**62, SAR))

        assert books.of_house() == (-10_000 - 2**62, 0)

    def test_the_same_transfer_again_moves_nothing(self, books: Books) -> None:
        transfer = books.single(Money(9_000, SAR))

        verdicts = [books.verdict(transfer) for _ in range(3)]

        known = TransferVerdict.KNOWN
        assert verdicts == [TransferVerdict.APPLIED, known, known]
        assert books.of_customer() == (1_000, 0)

    def test_how_long_and_for_whom_does_not_make_another_transfer(self, books: Books) -> None:
        hold = books.hold(Money(9_000, SAR), reference=uuid4())

        again = attrs.evolve(hold, hold_s=1.0, reference=uuid4())

        assert books.verdict(again) is TransferVerdict.KNOWN

    @pytest.mark.parametrize(
        "difference",
        [
            {"amount": Money(1, SAR)},
            {"debit_account": "house", "credit_account": "customer"},
            {"kind": TransferKind.PENDING, "hold_s": 1.0},
            {"amount": Money(100, KWD)},
        ],
        ids=["amount", "accounts", "kind", "currency"],
    )
    def test_another_transfer_under_the_same_id_moves_nothing(
        self, books: Books, difference: dict[str, Any]
    ) -> None:
        transfer = books.single(Money(100, SAR))
        books.verdict(transfer)

        outcome = books.repository.transfer(attrs.evolve(transfer, **difference))

        assert outcome == TransferOutcome(verdict=TransferVerdict.DIFFERS)
        assert books.of_customer() == (9_900, 0)

    def test_no_more_than_is_available_is_spent(self, books: Books) -> None:
        assert books.verdict(books.single(Money(10_001, SAR))) is TransferVerdict.INSUFFICIENT_FUNDS
        assert books.verdict(books.single(Money(10_000, SAR))) is TransferVerdict.APPLIED
        assert books.of_customer() == (0, 0)

    def test_a_refused_transfer_may_be_asked_again(self, books: Books) -> None:
        transfer = books.single(Money(10_001, SAR))
        assert books.verdict(transfer) is TransferVerdict.INSUFFICIENT_FUNDS

        books.top_up(Money(1, SAR))

        assert books.verdict(transfer) is TransferVerdict.APPLIED

    @pytest.mark.parametrize("place", ["debit_account", "credit_account"])
    def test_a_missing_account_is_named(self, books: Books, place: str) -> None:
        changed: dict[str, Any] = {place: "nobody"}
        transfer = attrs.evolve(books.single(Money(1, SAR)), **changed)

        assert books.repository.transfer(transfer) == TransferOutcome(
            verdict=TransferVerdict.NO_ACCOUNT, account_id="nobody"
        )

    def test_an_account_in_another_currency_is_named(self, books: Books) -> None:
        assert books.repository.transfer(books.single(Money(1, USD))) == TransferOutcome(
            verdict=TransferVerdict.WRONG_CURRENCY, account_id=books.customer
        )

    def test_a_balance_beyond_63_bits_is_refused_whole(self, books: Books) -> None:
        books.top_up(Money(2**63 - 1 - 10_000, SAR))

        with pytest.raises(StoreError) as refused:
            books.top_up(Money(1, SAR))

        assert not refused.value.may_have_committed
        assert books.of_customer() == (2**63 - 1, 0)

    def test_a_hold_reserves(self, books: Books) -> None:
        books.hold(Money(6_000, SAR))

        assert books.of_customer() == (10_000, 6_000)
        assert books.of_house() == (-10_000, 0)
        assert books.verdict(books.single(Money(4_001, SAR))) is TransferVerdict.INSUFFICIENT_FUNDS
        assert books.verdict(books.pending(Money(4_001, SAR))) is TransferVerdict.INSUFFICIENT_FUNDS
        assert books.verdict(books.single(Money(4_000, SAR))) is TransferVerdict.APPLIED

    def test_a_hold_of_the_house_is_seen_in_its_balance(self, books: Books) -> None:
        hold = attrs.evolve(
            books.pending(Money(500, SAR)),
            debit_account=books.house,
            credit_account=books.customer,
        )

        assert books.verdict(hold) is TransferVerdict.APPLIED
        assert (books.of_house(), books.of_customer()) == ((-10_000, 500), (10_000, 0))
        assert books.verdict(posting(hold)) is TransferVerdict.APPLIED
        assert (books.of_house(), books.of_customer()) == ((-10_500, 0), (10_500, 0))

    def test_a_post_moves_what_is_held(self, books: Books) -> None:
        hold = books.hold(Money(6_000, SAR))

        assert books.verdict(posting(hold)) is TransferVerdict.APPLIED
        assert books.of_customer() == (4_000, 0)
        assert books.of_house() == (-4_000, 0)

    def test_a_post_of_a_part_releases_the_rest(self, books: Books) -> None:
        hold = books.hold(Money(6_000, SAR))

        assert books.verdict(posting(hold, 1_000)) is TransferVerdict.APPLIED
        assert books.of_customer() == (9_000, 0)

    def test_a_post_of_more_than_is_held_moves_nothing(self, books: Books) -> None:
        hold = books.hold(Money(6_000, SAR))

        assert books.verdict(posting(hold, 6_001)) is TransferVerdict.AMOUNT_EXCEEDS_HOLD
        assert books.of_customer() == (10_000, 6_000)

    def test_a_release_gives_back_what_is_held(self, books: Books) -> None:
        hold = books.hold(Money(6_000, SAR))

        assert books.verdict(releasing(hold)) is TransferVerdict.APPLIED
        assert books.of_customer() == (10_000, 0)

    @pytest.mark.parametrize("first", [posting, releasing])
    @pytest.mark.parametrize("second", [posting, releasing])
    def test_a_hold_is_resolved_once(
        self,
        books: Books,
        first: Callable[[WalletTransfer], WalletTransfer],
        second: Callable[[WalletTransfer], WalletTransfer],
    ) -> None:
        hold = books.hold(Money(6_000, SAR))
        resolution = first(hold)
        assert books.verdict(resolution) is TransferVerdict.APPLIED
        before = books.of_customer()

        assert books.verdict(second(hold)) is TransferVerdict.HOLD_RESOLVED
        assert books.verdict(resolution) is TransferVerdict.KNOWN
        assert books.of_customer() == before

    def test_only_a_hold_can_be_resolved(self, books: Books) -> None:
        unknown = books.pending(Money(1, SAR))
        done = books.single(Money(1, SAR))
        books.verdict(done)

        assert books.verdict(posting(unknown)) is TransferVerdict.HOLD_NOT_FOUND
        assert books.verdict(posting(done)) is TransferVerdict.HOLD_NOT_FOUND

    def test_a_resolution_fits_its_hold(self, books: Books) -> None:
        hold = books.hold(Money(6_000, SAR))
        books.repository.open_account(
            WalletAccount(tenant_id=books.tenant_id, account_id="thief", currency=SAR)
        )

        elsewhere = attrs.evolve(posting(hold), credit_account="thief")
        in_dinars = attrs.evolve(posting(hold), amount=Money(6_000, KWD))
        a_part = attrs.evolve(releasing(hold), amount=Money(1, SAR))

        for wrong in (elsewhere, in_dinars, a_part):
            assert books.verdict(wrong) is TransferVerdict.HOLD_MISMATCH
        assert books.of_customer() == (10_000, 6_000)

    def test_an_expired_hold_cannot_be_debited(self, books: Books) -> None:
        hold = books.hold(Money(6_000, SAR), hold_s=_SHORT)
        pause(2 * _SHORT)

        assert books.verdict(posting(hold)) is TransferVerdict.HOLD_EXPIRED
        assert books.of_customer() == (10_000, 6_000)
        assert books.verdict(releasing(hold)) is TransferVerdict.APPLIED
        assert books.of_customer() == (10_000, 0)

    def test_expired_holds_are_released_by_transfers(self, books: Books) -> None:
        over = [books.hold(Money(1_000, SAR), hold_s=_SHORT) for _ in range(3)]
        lasting = books.hold(Money(500, SAR))
        pause(2 * _SHORT)

        assert books.repository.expire_holds(2) == 2
        assert books.repository.expire_holds(10) == 1
        assert books.repository.expire_holds(10) == 0
        assert books.of_customer() == (10_000, 500)
        for hold in over:
            assert books.repository.find(books.tenant_id, hold.transfer_id).resolution == expiry_of(
                hold
            )
        assert books.repository.find(books.tenant_id, lasting.transfer_id).resolution is None

    def test_a_transfer_is_found_by_its_id(self, books: Books) -> None:
        hold = books.hold(Money(6_000, SAR))
        post = posting(hold, 1_000)
        books.verdict(post)

        found = books.repository.find(books.tenant_id, hold.transfer_id)

        known = TransferVerdict.KNOWN
        assert found == TransferOutcome(verdict=known, transfer=hold, resolution=post)
        assert found.transfer is not None
        assert found.transfer.hold_s == _LONG
        assert books.repository.find(books.tenant_id, post.transfer_id) == TransferOutcome(
            verdict=known, transfer=post
        )

    def test_what_was_refused_is_not_found(self, books: Books) -> None:
        refused = books.single(Money(10_001, SAR))
        books.verdict(refused)
        absent = TransferOutcome(verdict=TransferVerdict.ABSENT)

        assert books.repository.find(books.tenant_id, refused.transfer_id) == absent
        assert books.repository.find_referenced(books.tenant_id, uuid4()) == absent

    def test_a_tenant_finds_its_own_transfers_only(self, books: Books) -> None:
        reference = uuid4()
        hold = books.hold(Money(6_000, SAR), reference=reference)

        found = books.repository.find("another-tenant", hold.transfer_id)
        named = books.repository.find_referenced("another-tenant", reference)

        assert found.transfer is None
        assert named.transfer is None

    def test_an_execution_leads_to_its_hold(self, books: Books) -> None:
        reference = uuid4()
        hold = books.hold(Money(6_000, SAR), reference=reference)
        post = attrs.evolve(posting(hold), reference=reference)
        books.verdict(post)

        found = books.repository.find_referenced(books.tenant_id, reference)

        assert (found.transfer, found.resolution) == (hold, post)

    def test_an_execution_that_asked_again_leads_there_as_well(self, books: Books) -> None:
        first, again = uuid4(), uuid4()
        hold = books.hold(Money(6_000, SAR), reference=first)
        books.verdict(attrs.evolve(hold, reference=again))

        for reference in (first, again):
            assert books.repository.find_referenced(books.tenant_id, reference).transfer == hold

    def test_flows_are_answered(self, books: Books) -> None:
        transfer = attrs.evolve(books.single(Money(1, SAR)), reference=uuid4())
        assert transfer.reference is not None
        answer = books.repository.answer
        known = TransferOutcome(verdict=TransferVerdict.KNOWN, transfer=transfer)

        assert answer(PostTransfer(transfer), _never()).verdict is TransferVerdict.APPLIED
        assert answer(PostTransfer(transfer), None) == known
        assert answer(FindTransfer(books.tenant_id, transfer.transfer_id), None) == known
        assert answer(FindReferenced(books.tenant_id, transfer.reference), None) == known

    def test_nothing_moves_after_the_send_deadline(self, books: Books) -> None:
        transfer = books.single(Money(1, SAR))
        passed = Deadline(0.0, lambda: 1.0)

        with pytest.raises(SendDeadlinePassed) as late:
            books.repository.answer(PostTransfer(transfer), passed)

        assert not late.value.may_have_left
        found = books.repository.answer(FindTransfer(books.tenant_id, transfer.transfer_id), passed)
        assert found.verdict is TransferVerdict.ABSENT

    def test_one_of_many_equal_transfers_is_applied(self, books: Books) -> None:
        transfer = books.single(Money(6_000, SAR))

        verdicts = race(*[lambda: books.verdict(transfer)] * 8)

        assert sorted(verdicts) == [TransferVerdict.APPLIED, *[TransferVerdict.KNOWN] * 7]
        assert books.of_customer() == (4_000, 0)

    def test_racing_transfers_never_overspend(self, books: Books) -> None:
        transfers = [books.single(Money(3_000, SAR)) for _ in range(8)]

        verdicts = race(*[lambda one=one: books.verdict(one) for one in transfers])

        assert verdicts.count(TransferVerdict.APPLIED) == 3
        assert verdicts.count(TransferVerdict.INSUFFICIENT_FUNDS) == 5
        assert books.of_customer() == (1_000, 0)

    def test_one_of_racing_resolutions_wins(self, books: Books) -> None:
        hold = books.hold(Money(6_000, SAR))
        asked = [posting(hold), posting(hold, 1), releasing(hold), posting(hold), releasing(hold)]

        verdicts = race(*[lambda one=one: books.verdict(one) for one in asked])

        assert verdicts.count(TransferVerdict.APPLIED) == 1
        assert verdicts.count(TransferVerdict.HOLD_RESOLVED) == 4
        winner = books.repository.find(books.tenant_id, hold.transfer_id).resolution
        assert winner == asked[verdicts.index(TransferVerdict.APPLIED)]


def _never() -> Deadline:
    return Deadline(1.0, lambda: 0.0)

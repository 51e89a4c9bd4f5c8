"""The wallet reserves, then debits, and goes on where it stopped."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import attrs
import pytest

from railcore.clock import Deadline, SystemClock
from railcore.driven import DrivenRail
from railcore.enums import Operation, PaymentRail
from railcore.errors import InProgressError, SendDeadlinePassed, StoreError
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.money import SAR, Currency, Money
from railcore.ports import FlowRail
from railcore.rails.wallet import WalletRail
from railcore.results import RailResult
from railcore.testing.contracts.wallet import Books, posting, releasing
from railcore.testing.conversation import Conversation
from railcore.testing.wallet import InMemoryWalletRepository
from railcore.wallet import (
    FindReferenced,
    FindTransfer,
    PostTransfer,
    TransferKind,
    TransferOutcome,
    TransferVerdict,
    WalletAsk,
    WalletTransfer,
)
from tests.core.executions import an_execution

RAIL = WalletRail(hold_s=600.0, charge_hold_s=60.0)
PARENT = UUID(int=7)
LOST = RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)
NOT_COMMITTED = StoreError("refused", may_have_committed=False)
PERHAPS_COMMITTED = StoreError("connection lost", may_have_committed=True)

Talk = Conversation[WalletAsk, TransferOutcome, RailResult]


def asked(
    operation: Operation = Operation.CHARGE, minor: int = 1250, **changed: Any
) -> PaymentExecution:
    """What is asked of the wallet: by default a charge of 12.50 SAR from ``customer``."""
    follows = operation.follows_a_parent
    context: dict[str, Any] = {
        "tenant_id": "acme",
        "operation": operation,
        "money": Money(minor, SAR),
        "payer_token": None if follows else "customer",
        "parent_execution_id": PARENT if follows else None,
        "idempotency_key": f"key-{operation}",
    }
    execution = an_execution(PaymentRail.WALLET, provider="wallet", **{**context, **changed})
    return attrs.evolve(
        execution, account="house", execution_id=UUID(int=100 + list(Operation).index(operation))
    )


def telling(verdict: TransferVerdict, account_id: str | None = None) -> TransferOutcome:
    return TransferOutcome(verdict=verdict, account_id=account_id)


def transfer_asked(talk: Talk) -> WalletTransfer:
    assert isinstance(talk.asks, PostTransfer)
    return talk.asks.transfer


def executing(execution: PaymentExecution) -> Talk:
    return Conversation(RAIL.execute(execution))


def checking(execution: PaymentExecution) -> Talk:
    return Conversation(RAIL.check_status(execution))


def a_hold(minor: int = 1250) -> WalletTransfer:
    return transfer_asked(executing(asked(Operation.AUTHORIZE, minor)))


def known(
    transfer: WalletTransfer | None, resolution: WalletTransfer | None = None
) -> TransferOutcome:
    verdict = TransferVerdict.ABSENT if transfer is None else TransferVerdict.KNOWN
    return TransferOutcome(verdict=verdict, transfer=transfer, resolution=resolution)


class TestCharge:
    def test_reserves_then_debits(self) -> None:
        talk = executing(asked())

        hold = transfer_asked(talk)
        assert (hold.kind, hold.hold_s) == (TransferKind.PENDING, 60.0)
        assert (hold.debit_account, hold.credit_account) == ("customer", "house")
        assert hold.amount == Money(1250, SAR)

        talk.answer(telling(TransferVerdict.APPLIED))
        debit = transfer_asked(talk)
        assert (debit.kind, debit.pending_id) == (TransferKind.POST, hold.transfer_id)

        talk.answer(telling(TransferVerdict.APPLIED))
        assert talk.result == RailResult.success(str(debit.transfer_id), Money(1250, SAR))

    def test_asks_for_the_same_transfers_when_it_is_repeated(self) -> None:
        lost_and_found = attrs.evolve(asked(), execution_id=UUID(int=99))
        first, again = executing(asked()), executing(lost_and_found)
        assert first.asks == again.asks

        first.answer(telling(TransferVerdict.APPLIED))
        again.answer(telling(TransferVerdict.KNOWN))
        assert first.asks == again.asks

        again.answer(telling(TransferVerdict.KNOWN))
        assert again.result.provider_ref is not None

    def test_asks_for_other_transfers_under_another_key(self) -> None:
        one = transfer_asked(executing(asked()))
        other = transfer_asked(executing(asked(idempotency_key="key-2")))

        assert one.transfer_id != other.transfer_id

    @pytest.mark.parametrize(
        ("outcome", "code"),
        [
            (telling(TransferVerdict.INSUFFICIENT_FUNDS), PaymentFailureCode.INSUFFICIENT_FUNDS),
            (
                telling(TransferVerdict.NO_ACCOUNT, "customer"),
                PaymentFailureCode.INSTRUMENT_INVALID,
            ),
            (
                telling(TransferVerdict.WRONG_CURRENCY, "customer"),
                PaymentFailureCode.INSTRUMENT_INVALID,
            ),
            (telling(TransferVerdict.NO_ACCOUNT, "house"), PaymentFailureCode.CONFIGURATION_ERROR),
        ],
    )
    def test_fails_when_nothing_can_be_reserved(
        self, outcome: TransferOutcome, code: PaymentFailureCode
    ) -> None:
        talk = executing(asked())
        talk.answer(outcome)

        assert talk.result.failure is code

    @pytest.mark.parametrize(
        "verdict", [TransferVerdict.HOLD_EXPIRED, TransferVerdict.HOLD_RESOLVED]
    )
    def test_is_cancelled_when_its_reservation_is_gone(self, verdict: TransferVerdict) -> None:
        talk = executing(asked())
        talk.answer(telling(TransferVerdict.KNOWN))
        talk.answer(telling(verdict))

        assert talk.result == RailResult.failed(PaymentFailureCode.CANCELLED)

    @pytest.mark.parametrize("context", [{"payer_token": None}, {"payer_token": "house"}])
    def test_needs_an_account_to_debit(self, context: dict[str, Any]) -> None:
        talk = executing(asked(**context))

        assert talk.result == RailResult.failed(PaymentFailureCode.INSTRUMENT_INVALID)

    def test_refuses_decimal_places_that_its_books_do_not_have(self) -> None:
        talk = executing(asked(money=Money(1, Currency("SAR", 3))))

        assert talk.result == RailResult.failed(PaymentFailureCode.UNSUPPORTED_OPERATION)

    def test_is_unknown_when_another_transfer_has_its_id(self) -> None:
        talk = executing(asked())
        hold = transfer_asked(talk)
        talk.answer(telling(TransferVerdict.DIFFERS))

        assert talk.result.cause is PaymentFailureCode.INVALID_RESPONSE
        assert talk.result.provider_ref == str(hold.transfer_id)

    @pytest.mark.parametrize(
        ("error", "result"),
        [
            (NOT_COMMITTED, RailResult.failed(PaymentFailureCode.NETWORK_ERROR)),
            (PERHAPS_COMMITTED, LOST),
            (
                SendDeadlinePassed("late", may_have_left=False),
                RailResult.failed(PaymentFailureCode.NETWORK_ERROR),
            ),
            (
                InProgressError("account", timedelta(seconds=1)),
                RailResult.failed(PaymentFailureCode.PROVIDER_UNAVAILABLE),
            ),
        ],
    )
    def test_says_what_a_broken_wallet_proves(self, error: Exception, result: RailResult) -> None:
        talk = executing(asked())
        talk.fail(error)

        assert talk.result == result

    @pytest.mark.parametrize(
        "error",
        [NOT_COMMITTED, PERHAPS_COMMITTED, SendDeadlinePassed("late", may_have_left=False)],
    )
    def test_is_unknown_once_something_is_reserved(self, error: Exception) -> None:
        talk = executing(asked())
        talk.answer(telling(TransferVerdict.APPLIED))
        talk.fail(error)

        assert talk.result == LOST

    def test_lets_a_defect_through(self) -> None:
        talk = executing(asked())

        with pytest.raises(ZeroDivisionError):
            talk.fail(ZeroDivisionError())

    def test_is_looked_up_by_its_debit(self) -> None:
        done = executing(asked())
        done.answer(telling(TransferVerdict.APPLIED))
        debit = transfer_asked(done)
        talk = checking(asked())
        assert talk.asks == FindTransfer("acme", debit.transfer_id)

        talk.answer(known(debit))

        assert talk.result == RailResult.success(str(debit.transfer_id), Money(1250, SAR))

    def test_that_only_reserved_is_absent(self) -> None:
        hold = transfer_asked(executing(asked()))
        talk = checking(asked())
        talk.answer(known(None))
        assert talk.asks == FindTransfer("acme", hold.transfer_id)

        talk.answer(known(hold))

        assert talk.result == RailResult.absent()

    def test_that_left_no_trace_is_absent(self) -> None:
        talk = checking(asked())
        talk.answer(known(None))
        talk.answer(known(None))

        assert talk.result == RailResult.absent()

    def test_whose_reservation_was_released_is_cancelled(self) -> None:
        hold = transfer_asked(executing(asked()))
        talk = checking(asked())
        talk.answer(known(None))
        talk.answer(known(hold, releasing(hold)))

        assert talk.result == RailResult.failed(PaymentFailureCode.CANCELLED)

    def test_of_another_amount_is_reported_as_it_is(self) -> None:
        done = executing(asked())
        done.answer(telling(TransferVerdict.APPLIED))
        other = attrs.evolve(transfer_asked(done), amount=Money(1, SAR))
        talk = checking(asked())
        talk.answer(known(other))

        assert talk.result == RailResult.success(str(other.transfer_id), Money(1, SAR))

    def test_from_another_account_is_unknown(self) -> None:
        done = executing(asked())
        done.answer(telling(TransferVerdict.APPLIED))
        other = attrs.evolve(transfer_asked(done), debit_account="somebody")
        talk = checking(asked())
        talk.answer(known(other))

        assert talk.result.cause is PaymentFailureCode.INVALID_RESPONSE

    @pytest.mark.parametrize("error", [NOT_COMMITTED, PERHAPS_COMMITTED])
    def test_proves_nothing_while_the_wallet_cannot_be_asked(self, error: Exception) -> None:
        talk = checking(asked())
        talk.fail(error)

        assert talk.result == LOST


class TestAuthorization:
    def test_is_a_hold_that_names_its_execution(self) -> None:
        execution = asked(Operation.AUTHORIZE)
        talk = executing(execution)
        hold = transfer_asked(talk)
        assert (hold.kind, hold.hold_s) == (TransferKind.PENDING, 600.0)
        assert hold.reference == execution.execution_id

        talk.answer(telling(TransferVerdict.APPLIED))

        assert talk.result == RailResult.success(str(hold.transfer_id), Money(1250, SAR))

    @pytest.mark.parametrize("resolve", [posting, releasing])
    def test_has_happened_whatever_became_of_its_hold(self, resolve: Any) -> None:
        hold = a_hold()
        talk = checking(asked(Operation.AUTHORIZE))
        talk.answer(known(hold, resolve(hold)))

        assert talk.result == RailResult.success(str(hold.transfer_id), Money(1250, SAR))


class TestCapture:
    def test_debits_the_hold_of_its_parent(self) -> None:
        hold = a_hold()
        talk = executing(asked(Operation.CAPTURE, 1000))
        assert talk.asks == FindReferenced("acme", PARENT)

        talk.answer(known(hold))
        debit = transfer_asked(talk)
        assert (debit.kind, debit.pending_id) == (TransferKind.POST, hold.transfer_id)
        assert debit.amount == Money(1000, SAR)

        talk.answer(telling(TransferVerdict.APPLIED))
        assert talk.result == RailResult.success(str(debit.transfer_id), Money(1000, SAR))

    @pytest.mark.parametrize(
        ("verdict", "code"),
        [
            (TransferVerdict.HOLD_RESOLVED, PaymentFailureCode.CANCELLED),
            (TransferVerdict.HOLD_EXPIRED, PaymentFailureCode.CANCELLED),
            (TransferVerdict.AMOUNT_EXCEEDS_HOLD, PaymentFailureCode.UNSUPPORTED_OPERATION),
            (TransferVerdict.HOLD_MISMATCH, PaymentFailureCode.CONFIGURATION_ERROR),
        ],
    )
    def test_fails_when_the_hold_does_not_give_it(
        self, verdict: TransferVerdict, code: PaymentFailureCode
    ) -> None:
        talk = executing(asked(Operation.CAPTURE))
        talk.answer(known(a_hold()))
        talk.answer(telling(verdict))

        assert talk.result.failure is code

    def test_of_an_execution_that_this_wallet_does_not_know_is_a_wrong_configuration(self) -> None:
        talk = executing(asked(Operation.CAPTURE))
        talk.answer(known(None))

        assert talk.result == RailResult.failed(PaymentFailureCode.CONFIGURATION_ERROR)

    def test_of_what_is_no_hold_is_not_supported(self) -> None:
        talk = executing(asked(Operation.CAPTURE))
        talk.answer(known(posting(a_hold())))

        assert talk.result == RailResult.failed(PaymentFailureCode.UNSUPPORTED_OPERATION)

    def test_is_not_begun_while_the_parent_cannot_be_found(self) -> None:
        talk = executing(asked(Operation.CAPTURE))
        talk.fail(NOT_COMMITTED)

        assert talk.result == RailResult.failed(PaymentFailureCode.NETWORK_ERROR)

    def test_is_looked_up_by_its_debit(self) -> None:
        hold = a_hold()
        done = executing(asked(Operation.CAPTURE))
        done.answer(known(hold))
        debit = transfer_asked(done)
        talk = checking(asked(Operation.CAPTURE))
        talk.answer(known(hold, debit))
        assert talk.asks == FindTransfer("acme", debit.transfer_id)

        talk.answer(known(debit))

        assert talk.result == RailResult.success(str(debit.transfer_id), Money(1250, SAR))

    def test_that_another_one_forestalled_is_absent(self) -> None:
        hold = a_hold()
        talk = checking(asked(Operation.CAPTURE))
        talk.answer(known(hold, posting(hold)))
        talk.answer(known(None))

        assert talk.result == RailResult.absent()


class TestVoid:
    def test_releases_the_hold_of_its_parent(self) -> None:
        hold = a_hold()
        talk = executing(asked(Operation.VOID))
        talk.answer(known(hold))
        release = transfer_asked(talk)
        assert (release.kind, release.pending_id) == (TransferKind.VOID, hold.transfer_id)

        talk.answer(telling(TransferVerdict.APPLIED))

        assert talk.result == RailResult.success(str(release.transfer_id), Money(1250, SAR))

    @pytest.mark.parametrize("converse", [executing, checking])
    def test_of_a_hold_that_expired_has_happened(self, converse: Any) -> None:
        hold = a_hold()
        expired = releasing(hold)
        talk = converse(asked(Operation.VOID))
        talk.answer(known(hold, expired))

        assert talk.result == RailResult.success(str(expired.transfer_id), Money(1250, SAR))

    @pytest.mark.parametrize("converse", [executing, checking])
    def test_of_the_rest_after_a_part_was_captured_has_happened(self, converse: Any) -> None:
        hold = a_hold()
        captured = posting(hold, 1000)
        talk = converse(asked(Operation.VOID, 250))
        talk.answer(known(hold, captured))

        assert talk.result == RailResult.success(str(captured.transfer_id), Money(250, SAR))

    @pytest.mark.parametrize("converse", [executing, checking])
    def test_of_what_was_captured_is_declined(self, converse: Any) -> None:
        hold = a_hold()
        talk = converse(asked(Operation.VOID, 251))
        talk.answer(known(hold, posting(hold, 1000)))

        assert talk.result == RailResult.failed(PaymentFailureCode.DECLINED)

    def test_of_a_part_is_not_supported(self) -> None:
        talk = executing(asked(Operation.VOID, 250))
        talk.answer(known(a_hold()))

        assert talk.result == RailResult.failed(PaymentFailureCode.UNSUPPORTED_OPERATION)

    def test_that_lost_a_race_looks_who_won(self) -> None:
        hold = a_hold()
        talk = executing(asked(Operation.VOID))
        talk.answer(known(hold))
        talk.answer(telling(TransferVerdict.HOLD_RESOLVED))
        assert talk.asks == FindReferenced("acme", PARENT)

        talk.answer(known(hold, posting(hold)))

        assert talk.result == RailResult.failed(PaymentFailureCode.DECLINED)

    def test_of_what_the_wallet_does_not_know_is_a_wrong_configuration(self) -> None:
        talk = executing(asked(Operation.VOID))
        talk.answer(known(None))

        assert talk.result == RailResult.failed(PaymentFailureCode.CONFIGURATION_ERROR)

    def test_of_an_open_hold_is_absent(self) -> None:
        talk = checking(asked(Operation.VOID))
        talk.answer(known(a_hold()))

        assert talk.result == RailResult.absent()


class TestRefund:
    def test_goes_back_to_the_account_that_paid(self) -> None:
        paid = posting(a_hold())
        talk = executing(asked(Operation.REFUND, 400))
        talk.answer(known(paid))
        back = transfer_asked(talk)
        assert (back.kind, back.pending_id) == (TransferKind.SINGLE, None)
        assert (back.debit_account, back.credit_account) == ("house", "customer")

        talk.answer(telling(TransferVerdict.APPLIED))

        assert talk.result == RailResult.success(str(back.transfer_id), Money(400, SAR))

    def test_to_another_account_is_refused(self) -> None:
        talk = executing(asked(Operation.REFUND, payer_token="somebody"))
        talk.answer(known(posting(a_hold())))

        assert talk.result == RailResult.failed(PaymentFailureCode.INSTRUMENT_INVALID)

    def test_from_an_unknown_house_account_is_a_wrong_configuration(self) -> None:
        talk = executing(asked(Operation.REFUND))
        talk.answer(known(posting(a_hold())))
        talk.answer(telling(TransferVerdict.NO_ACCOUNT, "house"))

        assert talk.result == RailResult.failed(PaymentFailureCode.CONFIGURATION_ERROR)

    def test_is_looked_up_by_its_transfer(self) -> None:
        paid = posting(a_hold())
        done = executing(asked(Operation.REFUND))
        done.answer(known(paid))
        back = transfer_asked(done)
        talk = checking(asked(Operation.REFUND))
        talk.answer(known(paid))
        talk.answer(known(back))

        assert talk.result == RailResult.success(str(back.transfer_id), Money(1250, SAR))


class TestOnAWallet:
    """The same, on books in memory."""

    @pytest.fixture
    def books(self) -> Books:
        books = Books(InMemoryWalletRepository(SystemClock()), "acme").open(SAR)
        books.top_up(Money(2000, SAR))
        return books

    @pytest.fixture
    def rail(self, books: Books) -> DrivenRail[WalletAsk, TransferOutcome]:
        return DrivenRail(RAIL, books.repository.answer)

    def test_a_repeated_charge_debits_once(
        self, books: Books, rail: DrivenRail[WalletAsk, TransferOutcome]
    ) -> None:
        results = {rail.execute(asked(), send_by=_in_time()).provider_ref for _ in range(3)}

        assert len(results) == 1
        assert books.of_customer() == (750, 0)
        assert rail.check_status(asked()).provider_ref in results
        assert rail.advance(asked(), send_by=_in_time()).provider_ref in results

    def test_wa3_a_charge_goes_on_where_it_stopped(
        self, books: Books, rail: DrivenRail[WalletAsk, TransferOutcome]
    ) -> None:
        books.repository.transfer(transfer_asked(executing(asked())))
        assert books.of_customer() == (2000, 1250)
        assert rail.check_status(asked()).is_absent

        assert rail.execute(asked(), send_by=_in_time()).reported == Money(1250, SAR)

        assert books.of_customer() == (750, 0)

    def test_an_authorization_is_captured_and_refunded_in_parts(
        self, books: Books, rail: DrivenRail[WalletAsk, TransferOutcome]
    ) -> None:
        authorize = asked(Operation.AUTHORIZE)
        capture = asked(Operation.CAPTURE, 1000, parent_execution_id=authorize.execution_id)
        refund = asked(Operation.REFUND, 300, parent_execution_id=capture.execution_id)

        for execution in (authorize, capture, refund):
            result = rail.execute(execution, send_by=_in_time())
            assert result.reported == execution.money
            assert rail.check_status(execution) == result

        assert books.of_customer() == (1300, 0)
        assert books.of_house() == (-1300, 0)

    def test_too_late_a_charge_touches_nothing(
        self, books: Books, rail: DrivenRail[WalletAsk, TransferOutcome]
    ) -> None:
        result = rail.execute(asked(), send_by=Deadline(0.0, lambda: 1.0))

        assert result == RailResult.failed(PaymentFailureCode.NETWORK_ERROR)
        assert books.of_customer() == (2000, 0)


def test_it_is_a_rail_of_flows() -> None:
    rail: FlowRail[WalletAsk, TransferOutcome] = RAIL

    assert rail.capabilities.operations == frozenset(Operation)
    assert rail.capabilities.timing.silence_proves_after_s == 35.0


def _in_time() -> Deadline:
    return Deadline(1.0, lambda: 0.0)

"""What the card and the open-banking rail make of exchanges that break."""

from collections.abc import Callable

import attrs
import pytest

from railcore.errors import MisconfiguredError, SendDeadlinePassed, TransportError
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.http import Exchange, HttpRequest, HttpResponse
from railcore.money import SAR, Money
from railcore.ports import CardGateway, FlowRail, OpenBankingClient
from railcore.rails.card_psp import CardPspRail
from railcore.rails.open_banking import OpenBankingPaymentRail
from railcore.results import RailResult
from railcore.routing import RouteCapabilities
from railcore.testing.conversation import Conversation
from tests.core.executions import an_execution

NOT_SENT = TransportError("connection refused", may_have_left=False)
LOST = TransportError("no answer", may_have_left=True)
NO_CREDENTIALS = MisconfiguredError("acme/stub/main", "has no credentials", "Add them")

prepare = HttpRequest(method="POST", url="https://psp.example/sessions")
pay = HttpRequest(method="POST", url="https://psp.example/charges", moves_money=True)
read = HttpRequest(method="GET", url="https://psp.example/charges/1")
fine = HttpResponse(status=200)
done = RailResult.success("ch_1", Money(1250, SAR))


@attrs.frozen
class Scripted:
    """A provider whose every conversation is the given requests, and then success."""

    requests: tuple[HttpRequest, ...]
    capabilities: RouteCapabilities = attrs.field(factory=RouteCapabilities)

    def start(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
        for request in self.requests:
            _ = yield request
        return done

    advance = start
    look_up = start
    initiate = start


def card(*requests: HttpRequest) -> FlowRail[HttpRequest, HttpResponse]:
    gateway: CardGateway = Scripted(requests)
    return CardPspRail(gateway)


def open_banking(*requests: HttpRequest) -> FlowRail[HttpRequest, HttpResponse]:
    client: OpenBankingClient = Scripted(requests)
    return OpenBankingPaymentRail(client)


rails = pytest.mark.parametrize("rail", [card, open_banking])
Talk = Conversation[HttpRequest, HttpResponse, RailResult]
Maker = Callable[..., FlowRail[HttpRequest, HttpResponse]]


def executing(rail: FlowRail[HttpRequest, HttpResponse]) -> Talk:
    return Conversation(rail.execute(an_execution()))


@rails
def test_the_providers_answer_is_the_rails_answer(rail: Maker) -> None:
    talk = executing(rail(pay))

    assert talk.asks == pay
    talk.answer(fine)

    assert talk.result == done


@rails
@pytest.mark.parametrize("error", [NOT_SENT, SendDeadlinePassed("late", may_have_left=False)])
def test_what_was_never_sent_is_a_definite_failure(rail: Maker, error: TransportError) -> None:
    talk = executing(rail(pay))

    talk.fail(error)

    assert talk.result == RailResult.failed(PaymentFailureCode.NETWORK_ERROR)


@rails
def test_what_may_have_left_is_unknown(rail: Maker) -> None:
    talk = executing(rail(pay))

    talk.fail(LOST)

    assert talk.result == RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)


def test_missing_credentials_are_a_definite_failure() -> None:
    talk = executing(card(pay))

    talk.fail(NO_CREDENTIALS)

    assert talk.result == RailResult.failed(PaymentFailureCode.CONFIGURATION_ERROR)


def test_a_preparation_before_it_does_not_make_an_unsent_payment_uncertain() -> None:
    talk = executing(card(prepare, pay))

    talk.answer(fine)
    talk.fail(NOT_SENT)

    assert talk.result == RailResult.failed(PaymentFailureCode.NETWORK_ERROR)


@pytest.mark.parametrize("error", [NOT_SENT, LOST, NO_CREDENTIALS])
def test_once_money_may_have_moved_no_later_error_makes_it_a_failure(error: Exception) -> None:
    talk = executing(card(pay, read))

    talk.answer(fine)
    talk.fail(error)

    assert talk.result == RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)


def test_a_lost_payment_stays_unknown_however_the_gateway_goes_on() -> None:
    @attrs.frozen
    class Stubborn(Scripted):
        def start(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
            try:
                yield pay
            except TransportError:
                yield read
            return done

    talk = executing(CardPspRail(Stubborn(())))

    talk.fail(LOST)
    talk.fail(NOT_SENT)

    assert talk.result == RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)


def test_a_defect_of_a_gateway_is_not_hidden() -> None:
    talk = executing(card(pay))

    with pytest.raises(KeyError):
        talk.fail(KeyError("unexpected"))


@rails
@pytest.mark.parametrize("error", [NOT_SENT, LOST])
def test_a_lookup_that_fails_proves_nothing(rail: Maker, error: Exception) -> None:
    talk: Talk = Conversation(rail(read).check_status(an_execution()))

    talk.fail(error)

    assert talk.result == RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)


@rails
def test_going_on_reaches_the_provider(rail: Maker) -> None:
    talk: Talk = Conversation(rail(read).advance(an_execution()))

    talk.answer(fine)

    assert talk.result == done


def test_a_conversation_that_is_given_up_ends_the_gateways_too() -> None:
    closed = list[bool]()

    @attrs.frozen
    class Careful(Scripted):
        def start(self, execution: PaymentExecution, /) -> Exchange[RailResult]:
            try:
                yield pay
            finally:
                closed.append(True)
            return done

    flow = CardPspRail(Careful(())).execute(an_execution())
    next(flow)
    flow.close()

    assert closed == [True]


@rails
def test_capabilities_are_the_providers(rail: Maker) -> None:
    assert rail(pay).capabilities == RouteCapabilities()

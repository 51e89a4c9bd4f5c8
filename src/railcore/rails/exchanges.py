"""
What a broken exchange says about the money, in one place for every rail that speaks HTTP.

A gateway tells its conversation and may leave every ``TransportError`` uncaught. Here it becomes a
result: ``failed`` only when it is proven that no request that moves money has left, in this
exchange, before or now; ``unknown`` otherwise.
"""

from railcore.errors import MisconfiguredError, TransportError
from railcore.failures import DefiniteFailureCode, PaymentFailureCode
from railcore.http import Exchange
from railcore.results import RailResult


def attempt(exchange: Exchange[RailResult]) -> Exchange[RailResult]:
    """Return *exchange*, which may move money, with what it does not catch turned into a result."""
    money_may_have_left = False
    try:
        ask = next(exchange)
        while True:
            try:
                answer = yield ask
            except Exception as error:  # noqa: BLE001 - the exchange decides; what it does not know it raises again
                if ask.moves_money and _unsent(error) is None:
                    money_may_have_left = True
                ask = exchange.throw(error)
            else:
                money_may_have_left = money_may_have_left or ask.moves_money
                ask = exchange.send(answer)
    except StopIteration as end:
        result: RailResult = end.value
        return result
    except (TransportError, MisconfiguredError) as error:
        code = _unsent(error)
        if code is None or money_may_have_left:
            return RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)
        return RailResult.failed(code)
    finally:
        exchange.close()


def inquiry(exchange: Exchange[RailResult]) -> Exchange[RailResult]:
    """Return *exchange*, which only reads; without an answer it proves nothing."""
    try:
        return (yield from exchange)
    except TransportError:
        return RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)


def _unsent(error: Exception) -> DefiniteFailureCode | None:
    """Return why nothing was sent, if *error* proves that."""
    match error:
        case TransportError(may_have_left=False):
            return PaymentFailureCode.NETWORK_ERROR
        case MisconfiguredError():
            return PaymentFailureCode.CONFIGURATION_ERROR
        case _:
            return None

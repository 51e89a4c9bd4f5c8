import inspect
import pickle
import re
from datetime import timedelta

import pytest

from railcore import errors
from railcore.errors import RailcoreError, RefusedError
from railcore.failures import PaymentFailureCode
from tests.core.made import ID

SAMPLES: list[RailcoreError] = [
    RailcoreError("root"),
    errors.InvalidValueError("field", "wanted", "found"),
    errors.MoneyError("amount", "wanted", "found"),
    errors.MisconfiguredError("routes.x", "problem", "remedy"),
    RefusedError("refused"),
    errors.RouteNotFoundError("acme", "card", ("none",)),
    errors.UnsupportedOperationError("cards", "refund", "charge"),
    errors.IdempotencyConflict("key-1", ID, ("amount_minor",)),
    errors.LiveExecutionExists("inv-1", ID),
    errors.LimitExceededError("inv-1", "refund", 5, 3),
    errors.InDoubtError("inv-1", "refund", (ID,)),
    errors.CurrencyMismatchError("inv-1", "USD"),
    errors.ApprovalError(ID, "problem"),
    errors.AlreadyResolvedError(ID, "adopt", "alice"),
    errors.NoRemedyError(ID, "adopt", "problem"),
    errors.UnknownProviderError("card_psp/x", ("card_psp/stub",)),
    errors.ExecutionNotFoundError("acme", ID),
    errors.DiscrepancyNotFoundError("acme", ID),
    errors.InProgressError("payment", timedelta(seconds=1)),
    errors.IllegalTransitionError("failed", "completed"),
    errors.TransportError("connection reset", True),
    errors.SendDeadlinePassed("too late", False),
    errors.StoreError("lost", True),
    errors.DeliveryError("lost", is_poison=True),
    errors.WebhookRefusedError("stub", "no signature"),
    errors.OutcomeUnknownError("acme", ID),
]


def by_name(error: RailcoreError) -> str:
    return type(error).__name__


def test_every_error_is_sampled() -> None:
    defined = {
        one
        for _, one in inspect.getmembers(errors, inspect.isclass)
        if issubclass(one, RailcoreError)
    }

    assert defined == {type(one) for one in SAMPLES}


@pytest.mark.parametrize("error", SAMPLES, ids=by_name)
def test_an_error_survives_pickling(error: RailcoreError) -> None:
    again = pickle.loads(pickle.dumps(error))

    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize("error", SAMPLES[3:], ids=by_name)
def test_an_error_says_what_happened(error: RailcoreError) -> None:
    assert str(error)
    assert type(error).__doc__


@pytest.mark.parametrize(
    "error", [one for one in SAMPLES if isinstance(one, RefusedError)], ids=by_name
)
def test_a_refusal_has_a_definite_code(error: RefusedError) -> None:
    assert isinstance(error.code, PaymentFailureCode)
    assert error.code.is_definite


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = list[tuple[int, str]]()
    for line in (errors.__doc__ or "").splitlines():
        found = re.fullmatch(r"    ([│├└─ ]*)(\w+)(?: \(\w+\))?(?:  .*)?", line)
        if found:
            drawn.append((len(found[1]) // 4, found[2]))
    parents = dict[str, str]()
    above = dict[int, str]()
    for depth, name in drawn:
        above[depth] = name
        parents[name] = above.get(depth - 1, "")

    expected = {
        type(one).__name__: next(
            (base.__name__ for base in type(one).__bases__ if issubclass(base, RailcoreError)), ""
        )
        for one in SAMPLES
    }
    assert parents == expected

"""When an account is left alone, and how much it is given: values, and a clock that is told."""

import attrs
import pytest

from railcore.breaker import Breaker, BreakerSettings, Traffic, heard
from railcore.budget import AccountLimits, Budget
from railcore.enums import PaymentRail, PendingReason
from railcore.failures import PaymentFailureCode
from railcore.http import HttpResponse, retry_after_s
from railcore.money import SAR, Money
from railcore.results import RailResult

ACCOUNT = (PaymentRail.CARD_PSP, "stub", "main")
OTHER = (PaymentRail.CARD_PSP, "stub", "other")
SETTINGS = BreakerSettings(failures=3, open_s=30)
SILENT = RailResult.unknown(PaymentFailureCode.PROVIDER_TIMEOUT)
DECLINED = RailResult.failed(PaymentFailureCode.DECLINED)


def silenced(times: int = 3, at_s: float = 0.0) -> Traffic:
    traffic = Traffic(SETTINGS)
    for _ in range(times):
        traffic.hear(ACCOUNT, SILENT, at_s)
    return traffic


def test_a_breaker_opens_at_the_limit_and_for_one_account() -> None:
    assert silenced(2).enter(ACCOUNT, 1) == 0
    assert silenced(3).enter(ACCOUNT, 1) == 29
    assert silenced(3).enter(OTHER, 1) == 0


@pytest.mark.parametrize(
    "answer",
    [
        RailResult.success("ch_1", Money(1, SAR)),
        RailResult.pending(PendingReason.PROVIDER_PROCESSING),
        RailResult.absent(),
        DECLINED,
        RailResult.failed(PaymentFailureCode.RATE_LIMITED),
        RailResult.failed(PaymentFailureCode.INVALID_CREDENTIALS),
    ],
)
def test_any_answer_closes_it(answer: RailResult) -> None:
    traffic = silenced(2)

    traffic.hear(ACCOUNT, answer, 0)
    traffic.hear(ACCOUNT, SILENT, 0)

    assert traffic.enter(ACCOUNT, 0) == 0


def test_an_exception_is_a_silence() -> None:
    traffic = silenced(2)

    traffic.hear(ACCOUNT, None, 0)

    assert traffic.enter(ACCOUNT, 0) == 30


def test_one_call_is_let_through_after_its_time() -> None:
    traffic = silenced()

    assert traffic.enter(ACCOUNT, 30) == 0
    assert traffic.enter(ACCOUNT, 31) == 29
    traffic.hear(ACCOUNT, SILENT, 32)
    assert traffic.enter(ACCOUNT, 33) == 29
    assert traffic.enter(ACCOUNT, 62) == 0
    traffic.hear(ACCOUNT, DECLINED, 63)
    assert traffic.enter(ACCOUNT, 63) == 0


def test_a_provider_that_asks_for_rest_gets_it_from_workers() -> None:
    traffic = Traffic(SETTINGS)

    limited = RailResult.failed(PaymentFailureCode.RATE_LIMITED)
    traffic.hear(ACCOUNT, attrs.evolve(limited, retry_after_s=60.0), 0)

    assert traffic.resting(10) == {ACCOUNT: 50}
    assert traffic.enter(ACCOUNT, 10) == 0
    assert not traffic.resting(60)


def test_without_settings_nobody_is_left_alone() -> None:
    traffic = Traffic(None)
    for _ in range(100):
        traffic.hear(ACCOUNT, None, 0)

    assert traffic.enter(ACCOUNT, 0) == 0
    assert not traffic.resting(0)


# Budgets ------------------------------------------------------------------------------------------


def test_a_backlog_is_worked_off_at_the_pace_of_the_budget() -> None:
    budget = Budget(default=AccountLimits(at_once=100, per_second=10, burst=5))
    taken, at_s = 0, 0.0
    budget.begin(ACCOUNT, at_s)
    for _ in range(100):
        for _ in range(budget.most(at_s)[ACCOUNT]):
            budget.begin(ACCOUNT, at_s)
            budget.end(ACCOUNT)
            taken += 1
        at_s += 0.1

    assert 99 <= taken <= 105


def test_what_is_under_way_counts() -> None:
    budget = Budget({ACCOUNT: AccountLimits(at_once=2, per_second=100, burst=10)})

    assert budget.most(0) == {ACCOUNT: 2}
    budget.begin(ACCOUNT, 0)
    budget.begin(ACCOUNT, 0)
    assert budget.most(60) == {ACCOUNT: 0}
    budget.end(ACCOUNT)
    assert budget.most(60) == {ACCOUNT: 1}


def test_of_an_unknown_account_a_burst_is_taken() -> None:
    assert Budget(default=AccountLimits(at_once=4, burst=9)).most_each() == 4


# What a provider asks for -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "120"}, 120),
        ({"retry-after": " 0 "}, 0),
        ({"retry-after": "9" * 400}, 86_400),
        (
            {
                "retry-after": "Wed, 21 Oct 2026 07:28:30 GMT",
                "date": "Wed, 21 Oct 2026 07:28:00 GMT",
            },
            30,
        ),
        (
            {
                "retry-after": "Wed, 21 Oct 2026 07:27:00 GMT",
                "date": "Wed, 21 Oct 2026 07:28:00 GMT",
            },
            0,
        ),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "today"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "٣", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_both_forms(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(HttpResponse(status=429, headers=headers)) == expected


def test_a_pause_that_was_asked_for_outlasts_other_answers() -> None:
    settings = BreakerSettings()
    limited = attrs.evolve(RailResult.failed(PaymentFailureCode.RATE_LIMITED), retry_after_s=60.0)
    paused = heard(Breaker(), settings, limited, 100.0)

    for answer in (RailResult.success("ch_1", Money(1, SAR)), None):
        assert heard(paused, settings, answer, 101.0).paused_until_s == 160.0


def test_an_account_that_is_used_up_is_passed_over_until_it_has_some_to_take() -> None:
    budget = Budget(default=AccountLimits(at_once=32, per_second=50, burst=16))
    for _ in range(16):
        budget.begin(ACCOUNT, 0.0)

    assert [budget.most(at_s)[ACCOUNT] for at_s in (0.02, 0.1, 0.2)] == [0, 0, 10]


def test_a_slow_account_is_given_each_token_as_it_comes() -> None:
    budget = Budget(default=AccountLimits(at_once=4, per_second=1, burst=1))
    budget.begin(ACCOUNT, 0.0)

    assert [budget.most(at_s)[ACCOUNT] for at_s in (0.5, 1.0)] == [0, 1]

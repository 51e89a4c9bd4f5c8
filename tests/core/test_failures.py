from typing import Any, get_args

import pytest

from railcore.errors import InvalidValueError
from railcore.failures import (
    UNKNOWN_CAUSES,
    Advice,
    Certainty,
    DefiniteFailureCode,
    FailureCategory,
    PaymentFailureCode,
    UnknownCause,
)
from railcore.results import RailResult

AMBIGUOUS = {PaymentFailureCode.PROVIDER_TIMEOUT, PaymentFailureCode.INVALID_RESPONSE}
BY_CATEGORY = {
    "transient": {"network_error", "provider_unavailable", "rate_limited", "provider_timeout"},
    "permanent": {
        "declined",
        "insufficient_funds",
        "authentication_failed",
        "instrument_invalid",
        "risk_rejected",
        "cancelled",
    },
    "configuration": {
        "configuration_error",
        "invalid_credentials",
        "route_not_found",
        "unsupported_operation",
    },
    "internal": {"invalid_response", "internal_error"},
}


def test_there_are_sixteen_codes() -> None:
    assert len(PaymentFailureCode) == 16


def test_there_are_four_categories() -> None:
    found = {
        category.value: {code.value for code in PaymentFailureCode if code.category is category}
        for category in FailureCategory
    }

    assert found == BY_CATEGORY


def test_two_codes_are_ambiguous() -> None:
    assert {one for one in PaymentFailureCode if one.certainty is Certainty.AMBIGUOUS} == AMBIGUOUS


@pytest.mark.parametrize("code", PaymentFailureCode)
def test_a_code_is_definite_or_ambiguous(code: PaymentFailureCode) -> None:
    assert code.is_definite is (code not in AMBIGUOUS)


def test_a_type_checker_is_told_the_definite_codes() -> None:
    assert set(get_args(DefiniteFailureCode)) == set(PaymentFailureCode) - AMBIGUOUS


def test_a_type_checker_is_told_the_causes_of_doubt() -> None:
    assert set(get_args(UnknownCause)) == UNKNOWN_CAUSES


def test_every_ambiguous_code_can_be_the_cause_of_doubt() -> None:
    assert AMBIGUOUS <= UNKNOWN_CAUSES


@pytest.mark.parametrize("code", sorted(AMBIGUOUS))
def test_an_ambiguous_code_builds_no_failure_at_run_time(code: Any) -> None:
    with pytest.raises(InvalidValueError, match="proves that no money moved"):
        RailResult.failed(code)


@pytest.mark.parametrize("code", sorted(set(PaymentFailureCode) - AMBIGUOUS))
def test_a_definite_code_builds_a_failure(code: Any) -> None:
    assert RailResult.failed(code).failure is code


@pytest.mark.parametrize("code", sorted(set(PaymentFailureCode) - UNKNOWN_CAUSES))
def test_a_definite_code_is_no_cause_of_doubt(code: Any) -> None:
    with pytest.raises(InvalidValueError, match="cause"):
        RailResult.unknown(code)


@pytest.mark.parametrize("code", PaymentFailureCode)
def test_another_route_is_tried_only_after_a_definite_transient_failure(
    code: PaymentFailureCode,
) -> None:
    wanted = code in {
        PaymentFailureCode.NETWORK_ERROR,
        PaymentFailureCode.PROVIDER_UNAVAILABLE,
        PaymentFailureCode.RATE_LIMITED,
    }

    assert code.allows_failover is wanted


def test_after_a_timeout_the_advice_is_to_look_it_up() -> None:
    assert PaymentFailureCode.PROVIDER_TIMEOUT.advice is Advice.LOOK_UP


@pytest.mark.parametrize("code", PaymentFailureCode)
def test_a_payer_is_told_nothing_about_the_host_or_the_provider(code: PaymentFailureCode) -> None:
    assert code.message_key.startswith("payment.failure.")
    assert not {"provider", "configuration", "credentials", "risk", "internal"} & set(
        code.message_key.replace(".", "_").split("_")
    )


@pytest.mark.parametrize("code", sorted(AMBIGUOUS))
def test_a_payer_is_never_told_that_a_doubtful_payment_failed(code: PaymentFailureCode) -> None:
    assert code.message_key == "payment.failure.being_checked"


PUBLISHED = {
    "network_error": ("transient", "retry_later", "try_later"),
    "provider_unavailable": ("transient", "retry_later", "try_later"),
    "rate_limited": ("transient", "retry_later", "try_later"),
    "provider_timeout": ("transient", "look_up", "being_checked"),
    "declined": ("permanent", "use_another_instrument", "declined"),
    "insufficient_funds": ("permanent", "use_another_instrument", "insufficient_funds"),
    "authentication_failed": ("permanent", "use_another_instrument", "authentication_failed"),
    "instrument_invalid": ("permanent", "use_another_instrument", "instrument_invalid"),
    "risk_rejected": ("permanent", "use_another_instrument", "declined"),
    "cancelled": ("permanent", "use_another_instrument", "cancelled"),
    "configuration_error": ("configuration", "fix_configuration", "unavailable"),
    "invalid_credentials": ("configuration", "fix_configuration", "unavailable"),
    "route_not_found": ("configuration", "fix_configuration", "unavailable"),
    "unsupported_operation": ("configuration", "fix_configuration", "unavailable"),
    "invalid_response": ("internal", "investigate", "being_checked"),
    "internal_error": ("internal", "investigate", "unavailable"),
}
"""What hosts store, branch on and translate: none of it may change."""


@pytest.mark.parametrize("code", PaymentFailureCode)
def test_what_hosts_store_and_translate_stays(code: PaymentFailureCode) -> None:
    category, advice, text = PUBLISHED[code.value]

    assert (code.category.value, code.advice.value) == (category, advice)
    assert code.message_key == f"payment.failure.{text}"


def test_certainty_is_stored_by_these_names() -> None:
    assert [one.value for one in Certainty] == ["definite", "ambiguous"]

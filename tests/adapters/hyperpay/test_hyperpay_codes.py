"""HyperPay's result codes: what each means, and that none means something by accident."""

import csv
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from railcore.failures import PaymentFailureCode
from railcore_adapters.hyperpay import Outcome, classify
from railcore_adapters.hyperpay.codes import FAMILIES, SINGLE_CODES, family_of

PUBLISHED = Path(__file__).parents[4] / "shared" / "providers" / "hyperpay-result-codes.csv"
Code = PaymentFailureCode


@pytest.mark.parametrize(
    ("code", "outcome", "failure"),
    [
        ("000.000.000", Outcome.SUCCESS, None),
        ("000.000.001", Outcome.SUCCESS, None),
        ("000.100.110", Outcome.TEST_SUCCESS, None),
        ("000.100.112", Outcome.TEST_SUCCESS, None),
        ("000.400.000", Outcome.REVIEW, None),
        ("000.400.100", Outcome.REVIEW, None),
        ("000.200.000", Outcome.PENDING, None),
        ("000.400.050", Outcome.PENDING, None),
        ("800.400.500", Outcome.PENDING, None),
        ("000.400.030", Outcome.UNKNOWN, None),
        ("000.400.110", Outcome.UNKNOWN, None),
        ("900.100.300", Outcome.UNKNOWN, None),
        ("999.999.999", Outcome.UNKNOWN, None),
        ("200.300.404", Outcome.UNKNOWN, None),
        ("800.110.100", Outcome.UNKNOWN, None),
        ("700.400.580", Outcome.ABSENT, None),
        ("800.120.100", Outcome.THROTTLED, None),
        ("000.100.221", Outcome.NO_PAYMENT, None),
        ("000.300.103", Outcome.NO_PAYMENT, None),
        ("800.100.152", Outcome.FAILED, Code.DECLINED),
        ("800.100.155", Outcome.FAILED, Code.INSUFFICIENT_FUNDS),
        ("800.100.153", Outcome.FAILED, Code.INSTRUMENT_INVALID),
        ("100.396.101", Outcome.FAILED, Code.CANCELLED),
        ("000.400.101", Outcome.FAILED, Code.AUTHENTICATION_FAILED),
        ("000.400.103", Outcome.FAILED, Code.PROVIDER_UNAVAILABLE),
        ("100.100.701", Outcome.FAILED, Code.RISK_REJECTED),
        ("600.200.500", Outcome.FAILED, Code.CONFIGURATION_ERROR),
        ("800.900.300", Outcome.FAILED, Code.INVALID_CREDENTIALS),
        ("100.550.303", Outcome.FAILED, Code.CONFIGURATION_ERROR),
        ("700.600.002", Outcome.FAILED, Code.DECLINED),
    ],
)
def test_a_code_means_what_the_provider_says(
    code: str, outcome: Outcome, failure: PaymentFailureCode | None
) -> None:
    assert (classify(code).outcome, classify(code).failure) == (outcome, failure)


def test_a_failure_has_a_reason_and_nothing_else_has() -> None:
    for meaning in [*SINGLE_CODES.values(), *(one.meaning for one in FAMILIES)]:
        assert (meaning.failure is not None) is (meaning.outcome is Outcome.FAILED)
        assert meaning.failure is None or meaning.failure.is_definite


def test_a_single_code_differs_from_its_family() -> None:
    same = [
        code
        for code, meaning in SINGLE_CODES.items()
        if (family := family_of(code)) is not None and family.meaning == meaning
    ]
    assert same == []


def test_what_has_no_family_is_unknown() -> None:
    assert family_of("123.456.789") is None
    assert classify("123.456.789").outcome is Outcome.UNKNOWN


@given(st.text())
def test_any_text_is_classified(text: str) -> None:
    is_code = re.fullmatch(r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}", text) is not None
    assert is_code or classify(text).outcome is Outcome.UNKNOWN


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published list is not part of railcore")
def test_no_published_code_falls_to_a_default() -> None:
    with PUBLISHED.open(newline="") as file:
        codes = [row["code"] for row in csv.DictReader(file)]

    print(f"{len(codes)} published codes")  # noqa: T201 - how many there were
    assert len(codes) > 600
    assert [one for one in codes if one not in SINGLE_CODES and family_of(one) is None] == []
    assert sorted(SINGLE_CODES.keys() - set(codes)) == []

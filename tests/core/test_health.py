"""The settings of a host, looked at: each defect is told alone, with the numbers."""

from collections.abc import Mapping
from typing import Any

import pytest

from railcore.enums import PaymentRail
from railcore.health import SETTING_SYMPTOMS, Finding, check_settings
from railcore.kernel import EngineSettings
from railcore.routing import RouteCapabilities, TimingBounds

TIMING = TimingBounds(send_deadline_s=5.0, answer_timeout_s=30.0, latest_arrival_s=120.0)


def found(
    timing: TimingBounds = TIMING, lease_s: float = 60.0, **given: Any
) -> tuple[Finding, ...]:
    offered = {(PaymentRail.CARD_PSP, "psp"): RouteCapabilities(timing=timing)}
    return check_settings(EngineSettings(lease_s=lease_s), offered, **given)


def test_sane_settings_have_no_finding() -> None:
    window = TimingBounds(send_deadline_s=5.0, answer_timeout_s=30.0, key_window_s=186.0)

    assert found() == ()
    assert found(window, transport_total_s=30.0, pool_size=2) == ()


@pytest.mark.parametrize(
    ("given", "code", "told"),
    [
        ({"lease_s": 35.0}, "lease_too_short", "lease_s = 35 is not above 5 + 30 s"),
        (
            {"timing": TimingBounds(answer_timeout_s=30.0, key_window_s=185.0)},
            "key_window_too_short",
            "W = 185 is not above lease_s + D + L = 60 + 5 + 120 s",
        ),
        ({"transport_total_s": 29.0}, "answer_outlasts_transport", "the transport's total 29 s"),
        ({"pool_size": 1}, "pool_too_small", "1 connections"),
    ],
)
def test_each_defect_is_told_alone(given: Mapping[str, Any], code: str, told: str) -> None:
    (finding,) = found(**given)

    assert (finding.code, finding.count) == (code, 1)
    assert told in finding.places[0].found


def test_every_symptom_of_settings_has_a_code_of_its_own() -> None:
    assert all(code == symptom.code for code, symptom in SETTING_SYMPTOMS.items())

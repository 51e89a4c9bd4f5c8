"""
What is found when somebody looks whether all is well, and the settings of a host looked at so.

A finding says what is wrong, where, and what to do; nothing here looks by itself. What a database
holds is looked at by `railcore_sqlalchemy.doctor`, which gives findings of the same kind.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

import attrs

from railcore.kernel import EngineSettings
from railcore.redaction import masked
from railcore.routing import Offered, TimingBounds

__all__ = ["SETTING_SYMPTOMS", "Finding", "Place", "Symptom", "check_settings"]


@attrs.frozen
class Symptom:
    """
    What a code of a finding means.

    Attributes:
        code: For programs.
        meaning: What is wrong, for people; a sentence.
        remedy: What to do; a sentence or two.
    """

    code: str
    meaning: str
    remedy: str


@attrs.frozen(kw_only=True)
class Place:
    """
    One row or setting where something was found.

    Attributes:
        subject: Which, as kind and name: ``execution 0199...``.
        found: What is there. Digits that may be a card number are masked in both.
        tenant_id: Whose, where it is a tenant's.
    """

    subject: str = attrs.field(converter=masked)
    found: str = attrs.field(converter=masked)
    tenant_id: str | None = None


@attrs.frozen(kw_only=True)
class Finding:
    """
    One thing that is wrong.

    Attributes:
        symptom: What, and what to do.
        places: Where; not all of them when there are many.
        count: In how many places.
    """

    symptom: Symptom
    places: tuple[Place, ...]
    count: int

    @property
    def code(self) -> str:
        """The code of the symptom."""
        return self.symptom.code

    @classmethod
    def each(
        cls,
        symptoms: Mapping[str, Symptom],
        found: Iterable[tuple[str, str, str]],
        limit: int | None = None,
    ) -> Iterator["Finding"]:
        """
        Yield a finding for each code in *found*, which are (code, subject, what is there).

        At most *limit* places of each are named.
        """
        places: dict[str, list[Place]] = {}
        for code, subject, what in found:
            places.setdefault(code, []).append(Place(subject=subject, found=what))
        for code, those in places.items():
            yield cls(symptom=symptoms[code], places=tuple(those[:limit]), count=len(those))


def index(*symptoms: tuple[str, str, str]) -> Mapping[str, Symptom]:
    """Return (code, meaning, remedy) by code."""
    return MappingProxyType({told[0]: Symptom(*told) for told in symptoms})


SETTING_SYMPTOMS: Final = index(
    (
        "lease_too_short",
        "A lease ends while its holder may still be waiting for the provider's answer.",
        "Lengthen lease_s, or shorten the provider's send deadline and answer timeout.",
    ),
    (
        "key_window_too_short",
        "The provider forgets an idempotency key before a lost request could be repeated.",
        "Shorten the lease or the send deadline, or correct the provider's bounds.",
    ),
    (
        "answer_outlasts_transport",
        "The transport gives up before the provider's answer timeout is over.",
        "Raise the transport's total timeout, or lower the answer timeout of the route.",
    ),
    (
        "pool_too_small",
        "A process has fewer than two connections: a relay or a wallet waits for a payment's.",
        "Give the pool at least two connections.",
    ),
)
"""What `check_settings` can find, by code."""


def check_settings(
    settings: EngineSettings,
    offered: Offered,
    *,
    transport_total_s: float | None = None,
    pool_size: int | None = None,
) -> tuple[Finding, ...]:
    """
    Return what is wrong with the settings of a host; nothing when all is well.

    Args:
        settings: The engine's.
        offered: What is registered, as ``PaymentRailRegistry.offered`` gives it.
        transport_total_s: For how long the transport waits for a whole request.
        pool_size: How many connections one process may hold, overflow included.

    >>> check_settings(EngineSettings(lease_s=60.0), {})
    ()
    """
    found = [
        *(one for rail, can in offered.items() for one in _timing(rail, can.timing, settings)),
        *(
            one
            for rail, can in offered.items()
            for one in _patience(rail, can.timing, transport_total_s)
        ),
    ]
    if pool_size is not None and pool_size < 2:
        found.append(("pool_too_small", "the connection pool", f"{pool_size} connections"))
    return tuple(Finding.each(SETTING_SYMPTOMS, found))


def _timing(
    rail: tuple[str, str], timing: TimingBounds, settings: EngineSettings
) -> Iterator[tuple[str, str, str]]:
    subject = f"rail {rail[0]}/{rail[1]}"
    deadline_s, answer_s = timing.send_deadline_s, timing.answer_timeout_s
    if settings.lease_s <= deadline_s + answer_s:
        yield (
            "lease_too_short",
            subject,
            (
                f"lease_s = {settings.lease_s:g} is not above {deadline_s:g} + {answer_s:g} s, "
                "send deadline + answer timeout"
            ),
        )
    window_s, late_s = timing.key_window_s, timing.latest_arrival_s
    if window_s is not None and window_s <= settings.lease_s + deadline_s + late_s:
        yield (
            "key_window_too_short",
            subject,
            (
                f"W = {window_s:g} is not above "
                f"lease_s + D + L = {settings.lease_s:g} + {deadline_s:g} + {late_s:g} s"
            ),
        )


def _patience(
    rail: tuple[str, str], timing: TimingBounds, total_s: float | None
) -> Iterator[tuple[str, str, str]]:
    if total_s is not None and total_s < timing.answer_timeout_s:
        yield (
            "answer_outlasts_transport",
            f"rail {rail[0]}/{rail[1]}",
            f"answer timeout {timing.answer_timeout_s:g} s, the transport's total {total_s:g} s",
        )

"""
Any delivery at all ends in a typed refusal or in the inbox.

``RAILCORE_FUZZ`` says how many pairs of deliveries Hypothesis makes up; `nox -s fuzz` plays a
million deliveries, most by atheris, which looks for bytes that reach other lines.
"""

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.deliveries import FIELDS, STRANGE, Target

COUNT = int(os.environ.get("RAILCORE_FUZZ", "500"))
TARGET = Target()

signed_strange = st.builds(
    lambda count, picks, rest: bytes([2, count, *(one for pair in picks for one in pair)]) + rest,
    st.integers(0, 2),
    st.lists(
        st.tuples(st.integers(0, len(FIELDS) - 1), st.integers(0, len(STRANGE) + 1)),
        min_size=3,
        max_size=3,
    ),
    st.binary(max_size=40),
)
deliveries = st.one_of(
    st.binary(max_size=400),
    signed_strange,
    st.builds(lambda way, rest: bytes([way]) + rest, st.integers(0, 17), st.binary(max_size=80)),
    st.builds(lambda text: b"\x00" + text.encode(), st.text(max_size=200)),
)


@settings(max_examples=COUNT, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(deliveries)
def test_any_delivery_is_refused_or_kept(data: bytes) -> None:
    TARGET.deliver(data)


def test_half_of_the_deliveries_are_signed() -> None:
    target = Target()
    for data in (b"", b"\x00\x01", bytes([2, 0, FIELDS.index(("data", "livemode")), 0])):
        target.deliver(data)
    assert (target.count, target.refused, target.kept, target.applied) == (6, 3, 3, 1)

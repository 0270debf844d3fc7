"""Expected counts: which numbers they accept and how they read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from convkit.model import Expect, at_least, exactly, optional

counts = st.integers(0, 50)


@given(counts, counts)
def test_each_expectation_accepts_just_its_range(wanted, count):
    assert exactly(wanted).accepts(count) == (count == wanted)
    assert at_least(wanted).accepts(count) == (count >= wanted)
    assert optional().accepts(count)
    assert Expect(2, 5).accepts(count) == (2 <= count <= 5)


def test_expectations_read_as_english():
    assert [str(e) for e in (exactly(3), at_least(2), at_least(0), optional(), Expect(1, 4))] == [
        "exactly 3",
        "at least 2",
        "any number",
        "any number",
        "1 to 4",
    ]

"""The rule by which a variant is warm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.warmup import MOST, enough, stable


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        ([], False),
        ([1.0] * 5, False),
        ([1.0] * 6, True),
        ([9.0, 1.0, 1.0, 1.0, 1.0, 1.0], True),  # one slow request is no trend
        ([2.0, 2.0, 2.0, 1.0, 1.0, 1.0], False),
        ([1.06, 1.06, 1.06, 1.0, 1.0, 1.0], False),
        ([1.04, 1.04, 1.04, 1.0, 1.0, 1.0], True),
        ([1.0, 1.0, 1.0, 1.04, 1.04, 1.04], True),
        ([5.0, 4.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0], True),  # only the last six count
    ],
)
def test_stable_is_when_the_last_medians_agree(seconds, wanted):
    assert stable(seconds) is wanted


def test_warm_up_goes_on_until_stable_and_no_longer_than_twenty():
    falling = [2.0**-number for number in range(MOST)]
    assert not any(enough(falling[:count], 1) for count in range(MOST))
    assert enough(falling, 1)
    assert not enough([1.0] * 6, 8)
    assert enough([1.0] * 8, 8)


def test_as_many_as_were_asked_for_are_made_also_above_twenty():
    assert not enough([1.0] * 29, 30)
    assert enough([1.0] * 30, 30)
    assert enough([2.0**-number for number in range(30)], 30)


@given(st.lists(st.floats(0.001, 100), max_size=30), st.integers(1, 30), st.floats(0.01, 100))
def test_the_unit_of_time_does_not_matter(seconds, least, unit):
    scaled = [value * unit for value in seconds]
    near = len(seconds) >= 6 and abs(sorted(seconds[-3:])[1] / sorted(seconds[-6:-3])[1] - 1)
    if not 0.0499 < near < 0.0501:
        assert enough(scaled, least) == enough(seconds, least)

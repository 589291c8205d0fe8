"""Student's intervals against printed tables, against brute force, and their meaning."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daybreak.report.intervals import difference, incomplete_beta, mean, paired, student, student_tail

# Two-sided 95 % and 99 %, as every printed table has them.
TABLE = {1: (12.7062, 63.6567), 2: (4.3027, 9.9248), 3: (3.1824, 5.8409), 5: (2.5706, 4.0321), 10: (2.2281, 3.1693), 30: (2.0423, 2.7500)}


@pytest.mark.parametrize("degrees", TABLE)
def test_quantiles_are_the_printed_ones(degrees: int) -> None:
    assert (student(0.95, degrees), student(0.99, degrees)) == pytest.approx(TABLE[degrees], abs=5e-5)


def test_known_distributions_are_special_cases() -> None:
    assert student(0.95, 1e7) == pytest.approx(1.959964, abs=1e-5)  # the normal distribution
    assert student(0.5, 1) == pytest.approx(1.0)  # Cauchy's quartile
    assert [student(0.5, 2), student_tail(0, 3.7)] == pytest.approx([math.sqrt(2 / 3), 0.5])
    assert [incomplete_beta(x, 1, 1) for x in (0, 0.25, 0.9, 1)] == pytest.approx([0, 0.25, 0.9, 1])
    assert incomplete_beta(0.3, 2, 3) == pytest.approx(sum(math.comb(4, k) * 0.3**k * 0.7 ** (4 - k) for k in (2, 3, 4)))


@given(st.floats(0.01, 0.999), st.floats(0.5, 200))
@settings(max_examples=60, deadline=None)
def test_a_quantile_undoes_the_tail(confidence: float, degrees: float) -> None:
    assert 2 * student_tail(student(confidence, degrees), degrees) == pytest.approx(1 - confidence, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(("confidence", "degrees"), [(0.0, 3), (1.0, 3), (0.95, 0)])
def test_impossible_wishes_are_refused(confidence: float, degrees: float) -> None:
    with pytest.raises(ValueError, match="confidence between 0 and 1"):
        student(confidence, degrees)


def test_an_interval_of_a_mean_by_hand() -> None:
    told = mean([3.0, 3.1, 3.2])
    assert (told.mean, told.reach) == pytest.approx((3.1, 4.302653 * 0.1 / math.sqrt(3)))
    assert mean([3.0]).low is None
    assert not mean([3.0]).sure


def test_pairs_tell_what_groups_cannot() -> None:
    baseline = [3.30, 3.42, 3.18]
    values = [loss - 0.02 + wobble for loss, wobble in zip(baseline, (0.001, -0.001, 0.0), strict=True)]
    assert paired(values, baseline).sure
    assert paired(values, baseline).mean == pytest.approx(-0.02)
    assert not difference(values, baseline).sure
    assert difference(values, baseline).mean == pytest.approx(-0.02)


def test_welch_by_hand() -> None:
    told = difference([1.0, 2.0, 3.0], [2.0, 4.0, 6.0, 8.0])
    one, other = 1 / 3, (20 / 3) / 4
    degrees = (one + other) ** 2 / (one**2 / 2 + other**2 / 3)
    assert told.mean == -3
    assert told.reach == pytest.approx(student(0.95, degrees) * math.sqrt(one + other))
    assert difference([1.0, 1.0], [1.0, 1.0]).reach == 0
    assert difference([1.0], [1.0, 2.0]).how == "single"


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    chance = random.Random(7)
    held = {"welch": 0, "paired": 0}
    for _ in range(800):
        values, baseline = [chance.gauss(1, 1) for _ in range(3)], [chance.gauss(0, 3) for _ in range(4)]
        for told in (difference(values, baseline), paired(values, baseline[:3])):
            assert told.low is not None
            assert told.high is not None
            held[told.how] += told.low <= 1 <= told.high
    assert 0.93 * 800 < held["paired"] < 0.97 * 800
    assert 0.92 * 800 < held["welch"] < 0.98 * 800  # Welch's degrees are an approximation

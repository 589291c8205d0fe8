"""Intervals over a few runs: by hand, against brute force, and their meaning."""

from __future__ import annotations

import math
import random

import pytest

from daybreak.report.intervals import difference, mean, paired
from daybreak.student import student


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

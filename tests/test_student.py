"""Student's distribution against printed tables, and against its special cases."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daybreak.student import incomplete_beta, student, student_tail

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


@given(st.integers(1, 500))
def test_more_values_need_narrower_intervals(degrees: int) -> None:
    assert student(0.95, degrees) > student(0.95, degrees + 1) > 1.959963

"""The learning rate: known values, and what holds for any warm-up and any decay."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybreak.training.schedules import warmup_cosine


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (0, 0.0),
        (1, 0.01),
        (50, 0.5),
        (99, 0.99),
        (100, 1.0),
        (200, 0.1 + 0.9 * (0.5 + math.sqrt(2) / 4)),  # a quarter of the way
        (300, 0.55),
        (400, 0.1 + 0.9 * (0.5 - math.sqrt(2) / 4)),
        (500, 0.1),
        (10**12, 0.1),
    ],
)
def test_known_values(tokens, expected):
    assert warmup_cosine(1.0, 0.1, 100, 500)(tokens) == pytest.approx(expected, abs=1e-12)


def test_gpt3_as_published():
    rate = warmup_cosine(6e-4, 6e-5, 375_000_000, 260_000_000_000)
    assert rate(375_000_000) == pytest.approx(6e-4)
    assert rate(260_000_000_000) == rate(300_000_000_000) == pytest.approx(6e-5)
    assert rate(500_000) == pytest.approx(6e-4 * 0.5 / 375)  # the first step learns something


@st.composite
def plans(draw):
    peak = draw(st.floats(1e-6, 1.0))
    warmup = draw(st.integers(0, 10_000))
    decay = warmup + draw(st.integers(1, 100_000))
    return peak, draw(st.floats(0, 1)) * peak, warmup, decay


@given(plan=plans(), tokens=st.integers(1, 200_000))
def test_it_stays_between_zero_floor_and_peak(plan, tokens):
    peak, floor, warmup, decay = plan
    rate = warmup_cosine(*plan)(tokens)
    assert 0 < rate <= peak * (1 + 1e-12) or (rate == 0 and floor == 0)
    assert rate >= floor or tokens < warmup
    assert tokens < decay or rate == floor


@given(plan=plans(), tokens=st.integers(0, 200_000))
def test_it_rises_in_the_warm_up_falls_after_it_and_never_jumps(plan, tokens):
    peak, floor, warmup, decay = plan
    now, after = (warmup_cosine(*plan)(t) for t in (tokens, tokens + 1))
    if tokens < warmup:
        assert after > now
    elif tokens + 1 <= decay:
        assert after <= now * (1 + 1e-12)
    steepest = max(peak / max(1, warmup), (peak - floor) * math.pi / 2 / (decay - warmup))
    assert abs(after - now) <= steepest * (1 + 1e-6) + 1e-12


@given(peak=st.floats(1e-6, 1.0), decay=st.integers(1, 1000))
def test_without_a_warm_up_it_begins_at_the_peak(peak, decay):
    assert warmup_cosine(peak, 0.0, 0, decay)(0) == pytest.approx(peak)


def test_a_warm_up_that_fills_the_run_ends_at_the_floor():
    rate = warmup_cosine(1.0, 0.1, 100, 100)
    assert [rate(tokens) for tokens in (50, 99, 100, 101)] == [0.5, 0.99, 0.1, 0.1]

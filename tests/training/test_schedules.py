"""The learning rate: known values, and what holds for any warm-up and any decay."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybreak.training.schedules import (
    cosine,
    linear,
    one_minus_sqrt,
    warmup_cosine,
    warmup_decay,
    warmup_linear,
    warmup_stable_decay,
    within,
)

SHAPES = [cosine, linear, one_minus_sqrt]


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


def test_a_straight_line_and_a_trapezoid():
    line = warmup_linear(1.0, 0.2, 100, 500)
    assert [line(tokens) for tokens in (50, 100, 200, 300, 500, 501)] == pytest.approx([0.5, 1.0, 0.8, 0.6, 0.2, 0.2])
    trapezoid = warmup_stable_decay(1.0, 0.0, 100, 1000, 0.4)
    assert [trapezoid(tokens) for tokens in (50, 100, 350, 600, 700, 900, 1000, 2000)] == pytest.approx([0.5, 1, 1, 1, 0.75, 0.25, 0, 0])
    bent = warmup_stable_decay(1.0, 0.0, 100, 1000, 0.4, one_minus_sqrt)
    assert [bent(tokens) for tokens in (600, 604, 700, 900, 1000)] == pytest.approx([1, 0.9, 0.5, 1 - math.sqrt(0.75), 0])


@st.composite
def plans(draw):
    peak = draw(st.floats(1e-6, 1.0))
    warmup = draw(st.integers(0, 10_000))
    decay = warmup + draw(st.integers(1, 100_000))
    stable = draw(st.integers(0, decay - 1))
    return peak, draw(st.floats(0, 1)) * peak, warmup, stable, decay, draw(st.sampled_from(SHAPES))


@given(plan=plans(), tokens=st.integers(1, 200_000))
def test_it_stays_between_zero_floor_and_peak(plan, tokens):
    peak, floor, warmup, stable, decay, _ = plan
    rate = warmup_decay(*plan)(tokens)
    assert 0 <= rate <= peak * (1 + 1e-12)
    assert rate > 0 or floor < 1e-300
    assert rate >= floor * (1 - 1e-12) or tokens < warmup
    assert tokens < decay or rate == floor
    assert not warmup <= tokens < stable or rate == peak


@given(plan=plans(), tokens=st.integers(0, 200_000))
def test_it_rises_in_the_warm_up_falls_after_it_and_never_jumps(plan, tokens):
    peak, floor, warmup, stable, decay, shape = plan
    now, after = (warmup_decay(*plan)(t) for t in (tokens, tokens + 1))
    if tokens < warmup:
        assert after > now
    elif tokens + 1 <= decay:
        assert after <= now * (1 + 1e-12)
    length = decay - max(warmup, stable)
    steepest = {cosine: math.pi / 2 / length, linear: 1 / length, one_minus_sqrt: math.sqrt(1 / length)}[shape]
    assert abs(after - now) <= max(peak / max(1, warmup), (peak - floor) * steepest) * (1 + 1e-6) + 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_goes_from_one_to_zero_and_only_down(shape):
    heights = [shape(step / 1000) for step in range(1001)]
    assert (heights[0], heights[-1]) == (1.0, pytest.approx(0.0, abs=1e-12))
    assert sorted(heights, reverse=True) == heights


@given(first=st.integers(2_000, 50_000), second=st.integers(2_000, 50_000), share=st.floats(0.05, 0.95), tokens=st.integers(1, 50_000))
def test_before_its_decay_a_stable_schedule_knows_no_end(first, second, share, tokens):
    one, other = (warmup_stable_decay(1.0, 0.0, 100, end, share) for end in (first, second))
    if tokens < min(first, second) * (1 - share) - 1:
        assert one(tokens) == other(tokens)


@given(peak=st.floats(1e-6, 1.0), decay=st.integers(1, 1000), shape=st.sampled_from(SHAPES))
def test_without_a_warm_up_it_begins_at_the_peak(peak, decay, shape):
    assert warmup_decay(peak, 0.0, 0, 0, decay, shape)(0) == pytest.approx(peak)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_warm_up_that_fills_the_run_ends_at_the_floor(shape):
    rate = warmup_decay(1.0, 0.1, 100, 100, 100, shape)
    assert [rate(tokens) for tokens in (50, 99, 100, 101)] == [0.5, 0.99, 0.1, 0.1]


@given(plan=plans(), speed=st.integers(1, 500), steps=st.integers(5, 40))
def test_on_a_clock_the_shape_is_the_same_at_every_speed(plan, speed, steps):
    """The learning rate by the share of the time is what it is by the share of the tokens, unless these are nearer to their end."""
    _, floor, _, _, decay, _ = plan
    schedule = warmup_decay(*plan)
    for step in range(1, steps + 1):
        share = step / steps
        assert within(schedule, decay, lambda share=share: share)(0) == schedule(int(share * decay))
        assert within(schedule, decay, lambda share=share: share)(decay) == floor
    assert within(schedule, decay, lambda: 7.0)(speed) == floor

"""The arithmetic of steps: a batch that grows, and how many steps a number of tokens takes."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from daybreak.data.steps import Steps


def test_a_batch_that_does_not_grow():
    steps = Steps(64)
    assert [steps.batch(step) for step in (0, 1, 99)] == [64, 64, 64]
    assert [steps.before(step) for step in (0, 1, 99)] == [0, 64, 99 * 64]
    assert [steps.count(tokens) for tokens in (0, 1, 64, 65, 640)] == [0, 1, 1, 2, 10]


def test_gpt3_s_batch_at_golden_points():
    """GPT-3 125M: from 32K to 0.5M over 4B tokens. The values are of the straight line, worked out by hand."""
    steps = Steps(524_288, 32_768, 4_000_000_000)
    assert steps.batch(0) == 32_768
    one_level = 4_000_000_000 / 15  # tokens, until one more 32K fits below the line
    first_64k = next(step for step in range(10_000) if steps.batch(step) == 65_536)
    assert steps.before(first_64k - 1) < one_level <= steps.before(first_64k)
    assert first_64k == -(-one_level // 32_768) == 8139
    middle = steps.count(2_000_000_000)
    assert steps.batch(middle) == 8 * 32_768  # 32K + 7.5 x 32K, rounded down
    grown = next(step for step in range(30_000) if steps.batch(step) == 524_288)
    assert steps.before(grown - 1) < 4_000_000_000 <= steps.before(grown)
    assert steps.count(300_000_000_000) == grown + -(-(300_000_000_000 - steps.before(grown)) // 524_288)


@given(unit=st.integers(1, 9), levels=st.integers(1, 12), ramp=st.integers(1, 2000), steps=st.integers(0, 300))
def test_the_batch_follows_the_straight_line_from_below(unit, levels, ramp, steps):
    full = unit * levels
    growing = Steps(full, unit, ramp)
    before = 0
    for step in range(steps):
        assert growing.before(step) == before
        ideal = unit + (full - unit) * min(1.0, before / ramp)
        size = growing.batch(step)
        assert size % unit == 0
        assert ideal - unit - 1e-9 < size <= ideal + 1e-9
        before += size


@given(unit=st.integers(1, 9), levels=st.integers(1, 12), ramp=st.integers(1, 2000), tokens=st.integers(0, 5000))
def test_the_count_is_the_fewest_steps_that_reach_the_tokens(unit, levels, ramp, tokens):
    growing = Steps(unit * levels, unit, ramp)
    count = growing.count(tokens)
    assert growing.before(count) >= tokens
    assert count == 0 or growing.before(count - 1) < tokens


@given(batch=st.integers(1, 200), start=st.integers(1, 300), ramp=st.integers(0, 5))
def test_a_batch_that_cannot_grow_so_is_refused_with_a_way_out(batch, start, ramp):
    assume(batch % start or start > batch or (start < batch and ramp == 0))
    with pytest.raises(ValueError, match="wanted"):
        Steps(batch, start, ramp)

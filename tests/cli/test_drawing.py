"""Pictures of characters: they are as wide as asked, keep the order of what they show, and stand any number."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybreak.cli import drawing

numbers = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=300)


def test_a_falling_line() -> None:
    assert drawing.braille([4, 3, 2, 1, 0], 4, 2) == ["⠑⢄  ", "  ⠑⢄"]


def test_a_flat_line_and_nothing() -> None:
    assert drawing.braille([1.0, 1.0], 3, 1) == ["⠤⠤⠤"]
    assert drawing.braille([], 3, 2) == ["   ", "   "]


@given(numbers, st.integers(1, 60), st.integers(1, 8))
def test_a_curve_is_whole_and_as_large_as_asked(values: list[float], width: int, height: int) -> None:
    lines = drawing.braille(values, width, height)
    assert [len(line) for line in lines] == [width] * height
    for column in range(width):  # every column has a dot: the line does not break off
        assert any(line[column] != " " for line in lines)


@given(numbers, st.integers(1, 200))
def test_resampling_stays_within(values: list[float], count: int) -> None:
    made = drawing.resampled(values, count)
    assert len(made) == count
    slack = 1e-6 * (1 + max(map(abs, values)))
    assert min(values) - slack <= min(made) <= max(made) <= max(values) + slack
    if len(values) % count == 0:
        assert math.fsum(made) / count == pytest.approx(math.fsum(values) / len(values), rel=1e-6, abs=1e-3)


@given(st.lists(st.floats(-1e6, 1e6), max_size=400), st.sampled_from([2, 4, 16]))
def test_a_curve_keeps_the_means_in_little_room(values: list[float], most: int) -> None:
    curve = drawing.Curve(most)
    for value in values:
        curve.add(value)
    assert len(curve.values) <= most
    if values:
        assert min(values) - 1e-6 <= min(curve.values) <= max(curve.values) <= max(values) + 1e-6
    if len(values) < most:
        assert curve.values == values


def test_a_curve_leaves_out_what_is_no_number() -> None:
    curve = drawing.Curve()
    for value in (1.0, math.nan, math.inf, 2.0):
        curve.add(value)
    assert curve.values == [1.0, 2.0]


def test_blocks_rise_and_fall() -> None:
    assert drawing.blocks([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert drawing.blocks([5, 5], 8) == "▄▄"
    assert drawing.blocks([], 8) == ""
    assert len(drawing.blocks(list(range(100)), 8)) == 8


@given(st.floats(-1, 2), st.integers(1, 100))
def test_a_bar_has_its_width(share: float, width: int) -> None:
    done, rest = drawing.bar(share, width)
    assert len(done + rest) == width
    assert (rest == "") is (round(min(1, max(0, share)) * 2 * width) >= 2 * width - 1)

"""From events to curves: what counts, what survives thinning, what smoothing means."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import BEGAN, made_events

from daybreak.report.curves import curves, elapsed, half_life, happened, number, smooth, spread, thin

VALUES = st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), min_size=1, max_size=400)


def step(n: int, loss: float | None = 1.0, time: float | None = None, **more: object) -> dict[str, object]:
    return {"event": "step", "step": n, "tokens": n * 10, "time": BEGAN + n if time is None else time, "loss": loss, **more}


def test_number_takes_finite_numbers_only() -> None:
    assert [number(x) for x in (1, 2.5, True, None, "3", math.nan, math.inf, 10**400)] == [1.0, 2.5, None, None, None, None, None, None]


def test_a_resume_rewinds() -> None:
    events = [*(step(n, loss=9.0) for n in range(1, 11)), {"event": "resume", "step": 6, "tokens": 60, "time": BEGAN + 100}]
    events += [step(n, loss=2.0, time=BEGAN + 100 + n) for n in range(7, 13)]
    loss = curves(happened(events))["loss"]
    assert loss.steps.tolist() == list(range(1, 13))
    assert loss.values.tolist() == [9.0] * 6 + [2.0] * 6


def test_the_night_between_stop_and_resume_is_not_training_time() -> None:
    events = [{"event": "start", "step": 0, "time": BEGAN}, step(1), step(2), {"event": "stop", "step": 2, "time": BEGAN + 3}]
    events += [{"event": "resume", "step": 2, "time": BEGAN + 50_000}, step(3, time=BEGAN + 50_004)]
    assert elapsed(happened(events)).tolist() == [0, 1, 2, 3, 3, 7]


def test_a_rollback_past_a_resume_does_not_bring_the_night_back() -> None:
    events = [{"event": "start", "step": 0, "time": BEGAN}, step(1), step(2), {"event": "resume", "step": 2, "time": BEGAN + 50_000}]
    events += [step(3, time=BEGAN + 50_001), {"event": "rollback", "step": 1, "time": BEGAN + 50_002}, step(2, time=BEGAN + 50_003)]
    assert elapsed(happened(events)).tolist() == [0, 1, 4, 5]


def test_a_clock_that_is_set_back_or_absent_never_runs_backwards() -> None:
    events = [step(1, time=BEGAN), step(2, time=BEGAN - 500), {"event": "step", "step": 3, "loss": 1.0}, step(4, time=BEGAN - 490)]
    assert elapsed(happened(events)).tolist() == [0, 0, 0, 10]
    assert elapsed(happened([])).tolist() == []


def test_nulls_strings_and_nonsense_are_passed_over() -> None:
    events: list[dict[str, Any]] = [
        step(1),
        step(2, loss=None),
        step(3, loss=math.nan),
        {**step(4), "loss": "NaN?"},
        {"event": None},
        {"event": "step"},
    ]
    events += [{"event": "step", "step": None, "tokens": None, "time": None, "loss": 5.0}, {"event": "resume", "step": None}]
    before = copy.deepcopy(events)
    loss = curves(happened(events))["loss"]
    assert loss.values.tolist() == [1.0, 5.0]
    assert loss.steps.tolist() == [1.0, 4.0]
    assert repr(events) == repr(before)


def test_no_events_no_points() -> None:
    assert {name: len(curve) for name, curve in curves(happened([])).items()} == dict.fromkeys(curves([]), 0)


def test_steps_come_out_in_order() -> None:
    shuffled = [step(3), step(1), step(2)]
    curve = curves(happened(shuffled))["loss"]
    assert curve.steps.tolist() == [1, 2, 3]
    assert (np.diff(curve.seconds) >= 0).all()


@given(VALUES, st.integers(6, 60))
@settings(max_examples=150, deadline=None)
def test_thinning_keeps_ends_extremes_order_and_limit(listed: list[float], limit: int) -> None:
    values = np.array(listed)
    kept = thin(values, limit)
    assert len(kept) <= limit
    assert (np.diff(kept) > 0).all()
    assert kept[0] == 0
    assert kept[-1] == len(values) - 1
    if np.isfinite(values).any():
        assert np.nanmin(values[kept]) == np.nanmin(values)
        assert np.nanmax(values[kept]) == np.nanmax(values)


def test_thinning_keeps_every_lone_peak_and_the_first_steps() -> None:
    values = np.sin(np.arange(300_000) / 50_000)
    peaks = [77, 30_001, 150_500, 299_000]
    values[peaks] = 5
    kept = thin(values, 2000)
    assert len(kept) <= 2000
    assert set(peaks) <= set(kept.tolist())
    assert (kept < 300).sum() > 100  # a linear choice would keep two of them
    with pytest.raises(ValueError, match="at least 6"):
        thin(values, 5)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.floats(0.1, 50))
@settings(max_examples=100, deadline=None)
def test_smoothing_is_the_weighted_mean_of_all_before(listed: list[float], life: float) -> None:
    beta = 0.5 ** (1 / life)
    for t, came in enumerate(smooth(np.array(listed), life).tolist(), start=1):
        weights = [beta ** (t - i) for i in range(1, t + 1)]
        assert came == pytest.approx(sum(w * x for w, x in zip(weights, listed, strict=False)) / sum(weights), abs=1e-6)


def test_smoothing_knows_constants_gaps_and_half_lives() -> None:
    assert smooth(np.full(50, 3.0), 10) == pytest.approx(np.full(50, 3.0))
    with_gap = smooth(np.array([math.nan, 4.0, math.nan, 2.0]), 1.0)
    assert math.isnan(with_gap[0])
    assert with_gap[1:].tolist() == pytest.approx([4.0, 4.0, (0.5 * 4 + 2) / 1.5])
    assert smooth(np.array([1.0, 2.0]), 0).tolist() == [1.0, 2.0]
    stepped = smooth(np.concatenate([np.zeros(10_000), np.ones(100)]), 100)
    assert stepped[-1] == pytest.approx(0.5, abs=1e-9)  # what its name promises
    assert [half_life(n) for n in (1, 5000, 10**7)] == [1.0, 10.0, 100.0]


def test_spread_keeps_first_and_last() -> None:
    assert spread(list(range(1000)), 4) == [0, 333, 666, 999]
    assert spread([1, 2], 4) == [1, 2]


def test_made_events_give_every_curve() -> None:
    found = curves(happened(made_events(steps=50, every=10)))
    assert {name: len(curve) for name, curve in found.items()} == {
        "loss": 49,
        "learning_rate": 50,
        "grad_norm": 50,
        "tokens_per_second": 50,
        "val_loss": 5,
        "bits_per_byte": 5,
    }

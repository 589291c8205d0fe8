"""Curves as the charts' script takes them: means that lose nothing, windows that cut nothing off, marks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daybreak.report.curves import Curve, task_curve
from daybreak.report.drawable import drawable, marks, means, within


def curve(n: int, seed: int = 0) -> Curve:
    steps = np.arange(1.0, n + 1)
    return Curve(steps, steps * 100, steps / 2, np.random.default_rng(seed).normal(size=n))


@given(st.integers(1, 5000), st.integers(4, 300))
@settings(max_examples=60, deadline=None)
def test_means_hold_every_point_once(n: int, limit: int) -> None:
    whole = curve(n)
    counts, averaged = means(whole, limit)
    assert len(counts) == len(averaged) <= limit or n <= limit
    assert sum(counts) == n
    assert averaged.steps[-1] == n
    assert float(np.dot(counts, averaged.values)) == pytest.approx(float(whole.values.sum()), abs=1e-6)
    begin = 0
    for count, value, step in zip(counts, averaged.values, averaged.steps, strict=True):
        assert value == pytest.approx(float(whole.values[begin : begin + count].mean()))
        assert step == whole.steps[begin + count - 1]
        begin += count


def test_the_first_steps_are_averaged_least() -> None:
    counts, _ = means(curve(100_000), 500)
    assert counts[:20] == [1] * 20
    assert max(counts) <= 100_000 / 250 + 1


def test_a_window_keeps_a_neighbour_at_each_side() -> None:
    whole = curve(100)
    assert within(whole, "steps", 10, 20).steps.tolist() == list(range(9, 22))
    assert within(whole, "tokens", 1000, 2000).steps.tolist() == list(range(9, 22))
    assert within(whole, "seconds", 49.9, 900).steps.tolist() == [99, 100]
    assert len(within(whole, "steps", 200, 300)) == 0


def test_what_is_noisy_has_means_and_what_is_empty_is_left_out() -> None:
    drawn = drawable({"loss": curve(1000), "learning_rate": curve(1000), "val_loss": curve(0)}, 100, ("steps", 500, 900))
    assert list(drawn) == ["loss", "learning_rate"]
    assert "means" not in drawn["learning_rate"]
    assert len(drawn["loss"]["values"]) <= 100
    assert drawn["loss"]["means"]["of"] == 1000
    assert sum(drawn["loss"]["means"]["counts"]) == 403


def test_marks_are_chosen_so_that_the_rare_survive() -> None:
    events = [{"event": "checkpoint", "step": n, "tokens": n, "path": "x"} for n in range(5000)]
    events += [{"event": "resume", "step": 5000, "tokens": None, "reason": "why"}, {"event": "sample", "step": 1}]
    found = marks(events, [float(i) for i in range(len(events))])
    assert len(found) == 201
    assert found[-1] == {"kind": "resume", "steps": 5000.0, "tokens": None, "seconds": 5000.0, "said": "why"}


def test_a_tasks_figure_over_the_run() -> None:
    row = {"protocol": "completion", "metrics": {"acc_norm": {"value": 0.27, "stderr": 0.01, "n": 1000}}}
    events = [
        {"event": "tasks", "step": 10, "tokens": 100, "tasks": {"hellaswag": row}},
        {"event": "tasks", "step": 20, "tokens": 200, "tasks": {"hellaswag": {**row, "protocol": "harness"}, "lambada": row}},
        {"event": "tasks", "step": 30, "tokens": 300, "tasks": None},
        {
            "event": "tasks",
            "step": 40,
            "tokens": 400,
            "tasks": {"hellaswag": {"protocol": "completion", "metrics": {"acc_norm": {"value": "?"}}}},
        },
    ]
    found = task_curve(events, [1.0, 2.0, 3.0, 4.0], "hellaswag", "completion", "acc_norm")
    assert (found.steps.tolist(), found.tokens.tolist(), found.values.tolist()) == ([10], [100], [0.27])
    assert len(task_curve([], [], "hellaswag", "completion", "acc_norm")) == 0

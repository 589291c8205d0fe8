"""Comparing runs over seeds: what is a group, where losses are compared, what may be said of it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from made_runs import BEGAN, made_run

from daybreak.report.compared import as_section, as_text, as_values
from daybreak.report.comparison import ComparisonProblem, compare, crossing, grouped, validation
from daybreak.report.curves import Curve
from daybreak.report.record import RunRecord, Summary, summary


def run(
    name: str, seed: int | None, losses: Sequence[float], rate: float = 6e-4, seconds: float = 10.0, end: bool = True, **end_more: Any
) -> Summary:
    """A run with an evaluation every 1,000 tokens; the last of the losses is its end's."""
    events: list[dict[str, Any]] = [{"event": "start", "step": 0, "tokens": 0, "time": BEGAN}]
    for i, loss in enumerate(losses, start=1):
        last = end and i == len(losses)
        kind = {"event": "end", **end_more} if last else {"event": "eval"}
        events.append({"step": i, "tokens": i * 1000, "time": BEGAN + i * seconds, "val_loss": loss, **kind})
    settings = {"train": {"learning_rate": rate, **({} if seed is None else {"seed": seed})}}
    return summary(RunRecord(name, settings, events, None, {"flops_per_token": 100.0, "device": "a machine"}))


def three(name: str, shift: float, rate: float = 6e-4, seeds: Sequence[int] = (1, 2, 3), **how: Any) -> list[Summary]:
    luck = {1: 0.0, 2: 0.05, 3: -0.04, 4: 0.02}
    return [
        run(f"{name}-{seed}", seed, [5 + shift, 4 + shift, 3 + shift + luck[seed] + 0.001 * seed * shift], rate, **how) for seed in seeds
    ]


def test_runs_that_differ_in_their_seed_alone_are_one_group() -> None:
    groups = grouped([*three("gpt2", 0.0), *three("modern", -0.2, 1e-3), run("odd", 9, [5, 4], 1e-2)])
    assert [(group.name, len(group.runs), group.seeds) for group in groups] == [
        ("gpt2", 3, ("1", "2", "3")),
        ("modern", 3, ("1", "2", "3")),
        ("odd", 1, ("9",)),
    ]
    assert [group.name for group in grouped([run("dawn", 1, [3], 1e-3), run("dawn", 1, [3], 2e-3)])] == ["dawn", "dawn (2)"]
    assert grouped([run("x", 1, [3]), run("y", 2, [3])])[0].name == "x and 1 more"


def test_equal_seeds_are_paired_and_a_winner_is_named_with_its_interval() -> None:
    told = compare(three("modern", -0.02, 1e-3), three("gpt2", 0.0))
    row = told.rows[1]
    assert told.rows[0].group.name == "gpt2"
    assert row.apart is not None
    assert (row.apart.how, row.apart.sure) == ("paired", True)
    assert row.apart.mean == pytest.approx(-0.02 - 0.02 * 0.002)
    assert "modern is better than gpt2 by 0.0200 nats at 3,000 tokens" in told.verdict
    assert "paired by seed" in told.verdict


def test_a_baseline_of_the_same_settings_is_still_another_group() -> None:
    """As when the code changed, and even where the folders have the same names."""
    told = compare(three("run", -0.02), three("run", 0.0))
    assert [row.group.name for row in told.rows] == ["run", "run (2)"]
    assert told.settings == {}
    assert told.verdict.startswith("run (2) is better than run by 0.0200")


def test_other_seeds_are_independent_and_the_same_difference_is_luck() -> None:
    told = compare(three("modern", -0.02, 1e-3, seeds=(2, 3, 4)), three("gpt2", 0.0))
    assert told.rows[1].apart is not None
    assert told.rows[1].apart.how == "welch"
    assert told.verdict.startswith("No difference that these runs can show between modern and gpt2")


def test_a_worse_group_loses() -> None:
    told = compare(three("modern", 0.3, 1e-3), three("gpt2", 0.0))
    assert told.verdict.startswith("gpt2 is better than modern by 0.3")
    assert told.rows[1].reached["tokens"] == (None, None, None)
    assert told.rows[1].ratios["tokens"] is None
    assert "not reached" in as_text(told)


def test_one_run_of_a_kind_proves_nothing() -> None:
    told = compare([run("b", 1, [5, 3.9], 1e-3)], [run("a", 1, [5, 4.0])])
    assert "b ends 0.1000 lower than a" in told.verdict
    assert "cannot tell a difference from luck" in told.verdict
    assert told.rows[1].apart is not None
    assert told.rows[1].apart.low is None
    assert "stands alone" in compare(three("gpt2", 0.0)).verdict


def test_what_it_took_to_reach_the_baselines_end() -> None:
    told = compare(three("modern", -1.0, 1e-3, seconds=20.0), three("gpt2", 0.0))
    assert told.to_loss == pytest.approx(3.05)  # the worst of the baseline's, which all of it reach
    row = told.rows[1]
    assert row.reached["tokens"] == pytest.approx([1000 + 1000 * 0.95 / 1.0] * 3)
    assert row.reached["time"] == pytest.approx([19.5 + 19.5] * 3)
    assert row.reached["flops"] == pytest.approx([195_000] * 3)
    tokens, time = row.ratios["tokens"], row.ratios["time"]
    assert tokens is not None
    assert time is not None
    assert time.mean == pytest.approx(tokens.mean * 2)
    assert compare(three("m", -1.0, 1e-3), three("g", 0.0), to_loss=4.5).rows[0].reached["tokens"] == pytest.approx([1500] * 3)


def test_at_equal_time_the_slower_is_seen_where_it_was_then() -> None:
    fast, slow = run("fast", 1, [5, 4, 3, 2]), run("slow", 1, [5, 3, 1.0], 1e-3, seconds=20.0)
    by_tokens, by_time = compare([slow], [fast]), compare([slow], [fast], by="time")
    assert by_tokens.at == 3000
    assert [row.losses[0] for row in by_tokens.rows] == [3, 1.0]
    assert by_time.at == 40
    assert [row.losses[0] for row in by_time.rows] == [2, 3]
    assert compare([slow], [fast], by="flops").at == 300_000


def test_the_last_evaluation_counts_as_another_measure_if_it_read_another_text() -> None:
    same = run("a", 1, [5, 4, 3])
    other = run("a", 1, [5, 4, 3], val_tokens=77)
    assert validation(same).values.tolist() == [5, 4, 3]
    assert validation(other).values.tolist() == [5, 4]
    told = compare([run("b", 1, [5, 4.5, 2.5], 1e-3, val_tokens=77)], [other])
    assert [row.losses[0] for row in told.rows] == [3, 2.5]  # both ended, on the same text
    assert told.to_loss == 4
    unlike = compare([run("b", 1, [5, 4.5, 2.5], 1e-3, val_tokens=78)], [other])
    assert [row.losses[0] for row in unlike.rows] == [4, 4.5]


@pytest.mark.parametrize(
    ("values", "goal", "wanted"), [([5, 4, 3], 3.5, 2500), ([5, 4, 3], 5.5, 1000), ([5, 4, 3], 2, None), ([5, 3, 4, 2], 3.5, 1750)]
)
def test_a_loss_is_reached_where_the_line_first_crosses_it(values: list[float], goal: float, wanted: float | None) -> None:
    x = np.arange(1, len(values) + 1) * 1000.0
    found = crossing(Curve(x, x, x / 10, np.array(values, dtype=np.float64)), goal)
    assert found == (None if wanted is None else pytest.approx((wanted, wanted / 10)))


def test_settings_that_differ_and_what_to_beware_of() -> None:
    twice = [run("a-1", 1, [5, 4]), run("a-2", 1, [5, 4.1])]
    going = run("b", 2, [5, 4], 1e-3, end=False)
    told = compare([going], twice)
    assert told.settings == {"train.learning_rate": ("0.0006", "0.001")}
    assert any("same seed" in warning for warning in told.warnings)
    assert any("Not finished: b." in warning for warning in told.warnings)
    elsewhere = dataclasses.replace(
        going, record=dataclasses.replace(going.record, data={"fingerprint": "ab"}, facts={"device": "another"})
    )
    assert len([w for w in compare([elsewhere], twice).warnings if "different data" in w or "different machines" in w]) == 2


def test_what_cannot_be_compared_is_told_all_at_once() -> None:
    nothing = summary(RunRecord("fresh", {"train": {"seed": 3, "learning_rate": 1}}, [], None, {}))
    with pytest.raises(ComparisonProblem, match=r"^fresh: wanted validation losses, found none"):
        compare([nothing], three("gpt2", 0.0))
    unknown = dataclasses.replace(run("a", 1, [5, 4]), flops_per_token=None)
    with pytest.raises(ComparisonProblem, match="a: wanted its FLOPs per token"):
        compare([unknown], three("gpt2", 0.0), by="flops")
    with pytest.raises(ComparisonProblem, match=r"--baseline: wanted runs that differ in train\.seed alone"):
        compare(three("m", 1), [run("a", 1, [5, 4]), run("b", 1, [5, 4], 1e-3)])
    late = summary(RunRecord("late", {"x": 1}, [{"event": "eval", "step": 9, "tokens": 9000, "time": 1, "val_loss": 3}], None, {}))
    with pytest.raises(ComparisonProblem, match="late: its first evaluation came at 9,000, where another run had ended"):
        compare([late], three("gpt2", 0.0))


def test_text_values_and_page_say_the_same() -> None:
    evil = "<img src=x>"
    told = compare(three(evil, -0.02, 1e-3), three("gpt2", 0.0))
    values = json.loads(json.dumps(as_values(told), allow_nan=False))
    assert values["groups"][1]["difference"]["mean"] == pytest.approx(told.rows[1].loss.mean - told.rows[0].loss.mean)
    assert values["groups"][1]["seeds"] == ["1", "2", "3"]
    assert values["groups"][1]["ratio"]["tokens"]["high"] >= values["groups"][1]["ratio"]["tokens"]["low"]
    html = as_section(told)
    assert evil not in html
    assert html.count("<polyline") == 6
    assert html.count('class="interval') == 1
    assert "train.learning_rate" in html
    assert told.verdict in as_text(told)


def test_made_runs_of_real_length_compare() -> None:
    runs = [summary(made_run(f"dawn-{seed}", seed=seed, steps=60, every=10)) for seed in (1, 2)]
    told = compare(runs)
    assert told.rows[0].loss.mean == pytest.approx(3.3, abs=0.05)
    assert not any(math.isnan(loss) for loss in told.rows[0].losses)

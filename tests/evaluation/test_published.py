"""The published figures hang together: every size is there, larger models are better, every figure has a source and a sensible value."""

import math

import pytest

from daybreak.evaluation.protocols import PROTOCOLS as TASKS
from daybreak.evaluation.published import PROTOCOLS, ROWS, RUNS, Row, rows, runs
from daybreak.model.config import SIZES

LOWER_IS_BETTER = {"perplexity", "word_perplexity", "bits_per_byte", "bits_per_character", "val_loss"}


def values(*wanted, **named):
    return [row.value for row in rows(*wanted, **named)]


def test_every_figure_is_of_a_known_model_and_protocol_and_has_a_source():
    for row in ROWS:
        family, size = row.model.split(".", 1)
        assert size in SIZES[family]
        assert row.protocol in PROTOCOLS
        assert row.metric in LOWER_IS_BETTER or 0 < row.value < 1, row
        assert row.metric not in LOWER_IS_BETTER or 0.5 < row.value < 100, row
        assert len(row.source) > 10
        assert row.stderr is None or 0 < row.stderr < (0.1 if row.metric.startswith("acc") else row.value)
    assert {row.protocol for row in ROWS} == set(PROTOCOLS)


def test_no_figure_is_there_twice():
    seen = [(row.model, row.task, row.protocol, row.metric, row.shots, row.source) for row in ROWS]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("task", ["lambada", "wikitext2", "wikitext103", "ptb", "one_billion_words", "cbt_cn", "cbt_ne", "enwik8", "text8"])
def test_gpt2s_paper_has_four_sizes_of_everything(task):
    came = [row for row in rows(task, "paper") if row.model.startswith("gpt2.")]
    for metric in {row.metric for row in came}:
        assert [row.model for row in came if row.metric == metric] == [f"gpt2.{size}" for size in SIZES["gpt2"]]
    assert came


@pytest.mark.parametrize(("task", "metric"), [("hellaswag", "acc"), ("lambada", "acc"), ("lambada", "perplexity"), ("storycloze", "acc")])
def test_gpt3s_paper_has_eight_sizes(task, metric):
    came = [row for row in rows(task, "paper", metric) if row.model.startswith("gpt3.")]
    assert [row.model for row in came] == [f"gpt3.{size}" for size in SIZES["gpt3"]]


def test_larger_models_of_a_family_are_better():
    series = {}
    for row in ROWS:
        series.setdefault((row.model.split(".")[0], row.task, row.protocol, row.metric, row.shots, row.source), []).append(row)
    for name, line in series.items():
        assert [row.parameters for row in line] == sorted(row.parameters for row in line), name
        rising = [-row.value if row.metric in LOWER_IS_BETTER else row.value for row in line]
        if name[:2] == ("gpt2", "cbt_cn"):  # as the paper has it: 93.45 for 774M, 93.30 for 1558M
            rising = rising[:-1]
        assert rising == sorted(rising), name


@pytest.mark.parametrize("name", TASKS)
def test_every_task_of_ours_has_figures_to_compare_with(name):
    came = rows(TASKS[name].published, TASKS[name].name)
    metrics = {"choice": {"acc", "acc_norm"}, "completion": {"acc", "perplexity"}, "document": {"word_perplexity"}}
    assert {row.metric for row in came if row.model == "gpt2.124m"} == metrics[TASKS[name].kind]


def test_protocols_are_kept_apart():
    assert values("hellaswag", "completion", "acc_norm")[0] < values("hellaswag", "harness", "acc_norm")[0]
    assert rows("lambada", "harness", "acc")[0].value < rows("lambada", "paper", "acc")[0].value
    assert {row.shots for row in rows("hellaswag")} == {0}
    assert {row.shots for row in rows("hellaswag", shots=20)} == {20}
    assert rows("nothing") == ()


def test_the_harness_told_the_error_that_its_accuracy_has():
    (told,) = [row for row in rows("lambada", "harness", "acc") if row.told_stderr]
    computed = Row(told.model, told.task, told.protocol, told.metric, told.value, told.source, told.n).stderr
    assert computed == pytest.approx(told.stderr, abs=1e-4)
    assert Row("gpt2.124m", "ptb", "paper", "perplexity", 65.85, "source", n=10).stderr is None


def test_parameters_are_those_of_the_released_models():
    assert [row.parameters for row in rows("ptb", "paper")] == [124_439_808, 354_823_168, 774_030_080, 1_557_611_200]


def test_figures_that_one_source_repeats_from_another_say_so():
    assert all(row.secondary for row in ROWS if row.model.startswith("gpt3.") and "GPT-3 paper (" not in row.source)
    assert not any(row.secondary for row in ROWS if "table" in row.source)


def test_runs_go_forward_and_learn():
    for run in RUNS:
        assert run.source
        tokens = [point.tokens for point in run.points]
        losses = [point.val_loss for point in run.points if point.val_loss is not None]
        assert tokens == sorted(set(tokens))
        assert losses == sorted(losses, reverse=True)
        assert all(2 < loss < 11 for loss in losses)
        assert all(0.25 < point.hellaswag < 1 for point in run.points if point.hellaswag is not None)
        assert run.last is run.points[-1]
        assert run.hours is None or run.hardware
    assert sorted({run.model for run in RUNS}) == sorted(f"gpt2.{size}" for size in SIZES["gpt2"])
    assert [run.name for run in runs("gpt2.355m")] == ["llm.c"]
    assert runs("gpt3.175b") == ()


def test_a_run_that_costs_something_costs_what_the_hours_cost():
    """llm.c names the price of an hour of its eight devices: 14 and 28 dollars."""
    for run in RUNS:
        if run.hours and run.dollars:
            hourly = run.dollars / run.hours
            assert math.isclose(hourly, 28 if "H100" in run.hardware else 14, rel_tol=0.1), run

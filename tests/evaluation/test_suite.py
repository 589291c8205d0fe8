"""Tasks opened and run: the files that are found, the shares that make the whole, and a training that does not notice."""

import dataclasses
import json

import pytest
import torch
from evaluation.tasks import BYTES, CONTEXT, HELLASWAG, tiny_model, write_lines

from daybreak import files
from daybreak.evaluation import downloads
from daybreak.evaluation.items import TaskProblem
from daybreak.evaluation.readers import whole
from daybreak.evaluation.suite import merge, open_tasks, run, save_items

MODEL = tiny_model(64)
CHOICES = [{"context": f"Number {i} is", "endings": [f"{i}", f"{i + 1} or so", "none"], "label": i % 3, "id": f"n{i}"} for i in range(40)]


@pytest.fixture
def mine(tmp_path):
    return write_lines(tmp_path / "mine.jsonl", CHOICES)


def opened(*names, **options):
    return open_tasks([str(name) for name in names], BYTES, **options)


def test_a_file_of_one_s_own(mine):
    (task,) = opened(mine)
    assert (task.name, task.protocol.name, task.total, len(task.items)) == (str(mine), "own", 40, 40)
    result = run(task, MODEL, context_length=64)
    assert list(result.figures()) == ["acc", "acc_norm"]
    figure = result.figures()["acc"]
    assert figure.n == 40
    assert figure.value == sum(result.values("acc")) / 40
    assert [row.id for row in result.outcomes] == [row["id"] for row in CHOICES]
    facts = result.facts()
    assert (facts["protocol"], facts["n"], facts["items"], facts["cut"], facts["form"]) == ("own", 40, 40, 0, "own")
    assert len(set(result.digests())) == 40


def test_some_items_are_spread_evenly_and_always_the_same(mine):
    (task,) = opened(mine, most_items=7)
    assert task.numbers == (0, 5, 11, 17, 22, 28, 34)
    assert task.total == 40
    result = run(task, MODEL, context_length=64)
    assert [row.id for row in result.outcomes] == [f"n{i}" for i in task.numbers]
    assert result.facts()["n"] == 7
    assert opened(mine, most_items=400)[0].numbers == tuple(range(40))
    of_all = {row.id: row.log_likelihoods for row in run(opened(mine)[0], MODEL, context_length=64).outcomes}
    for row in result.outcomes:
        assert row.log_likelihoods == pytest.approx(of_all[row.id], rel=1e-5)


@pytest.mark.parametrize("predictor", [MODEL, whole(MODEL)], ids=["cached", "whole"])
def test_shares_merge_to_exactly_the_whole(mine, predictor):
    (task,) = opened(mine)
    everything = run(task, predictor, context_length=64, token_budget=300)
    for world_size in (1, 2, 3, 50):
        parts = [run(task, predictor, context_length=64, token_budget=300, share=(rank, world_size)) for rank in range(world_size)]
        merged = merge(parts)
        assert merged.outcomes == everything.outcomes
        assert merged.figures() == everything.figures()
    assert any(not part.outcomes for part in parts)
    with pytest.raises(ValueError, match="this share of the task has none"):
        next(part for part in parts if not part.outcomes).figures()
    with pytest.raises(ValueError, match="some came twice"):
        merge([everything, everything])
    with pytest.raises(ValueError, match="shares of one task"):
        merge([everything, dataclasses.replace(everything, name="other")])


def test_a_cut_context_is_counted(tmp_path):
    rows = [{"context": "x" * length, "endings": ["yes", "no"], "label": 0} for length in (5, CONTEXT - 3, CONTEXT - 2, 200)]
    (task,) = opened(write_lines(tmp_path / "long.jsonl", rows))
    result = run(task, tiny_model(), context_length=CONTEXT)
    assert [row.cut for row in result.outcomes] == [False, False, True, True]  # " yes" and the ids before it are CONTEXT + 1 at most
    assert result.facts()["cut"] == 2


def test_a_training_does_not_notice(mine):
    """Mode, random state and gradients are as they were; dropout, in training, is the caller's to switch off."""
    model = tiny_model(64).train()
    state = torch.get_rng_state()
    (task,) = opened(mine)
    run(task, model, context_length=64)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_autocast_is_entered_once_and_the_cache_follows_it(mine):
    (task,) = opened(mine)
    entered = []

    def autocast():
        entered.append(True)
        return torch.autocast("cpu", torch.bfloat16)

    result = run(task, MODEL, context_length=64, autocast=autocast)
    assert len(entered) == 1
    exact = run(task, MODEL, context_length=64)
    for row, wanted in zip(result.outcomes, exact.outcomes, strict=True):
        assert row.log_likelihoods == pytest.approx(wanted.log_likelihoods, rel=0.05)
        assert row.log_likelihoods != wanted.log_likelihoods


def test_progress_is_told(mine):
    done = []
    run(opened(mine)[0], MODEL, context_length=64, token_budget=100, watch=done.append)
    assert done == sorted(done)
    assert done[-1] == 40
    assert len(done) > 5


def test_outcomes_are_saved_as_lines(mine, tmp_path):
    (task,) = opened(mine, most_items=3)
    result = run(task, MODEL, context_length=64)
    save_items([result, result], tmp_path / "deep" / "items.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "deep" / "items.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert rows[0].keys() == {"task", "id", "digest", "log_likelihood", "tokens", "acc", "acc_norm", "log_likelihoods", "cut"}
    assert rows[1]["log_likelihoods"] == list(result.outcomes[1].log_likelihoods)


# --- Where files are ---


def test_named_tasks_are_found_in_a_folder_in_its_task_s_folder_and_by_name(tmp_path):
    write_lines(tmp_path / "hellaswag_val.jsonl", HELLASWAG)
    (tmp_path / "lambada").mkdir()
    write_lines(tmp_path / "lambada" / "lambada_test.jsonl", [{"text": "a b c"}])
    both = opened("hellaswag", "hellaswag:harness", "lambada", "hellaswag", folder=tmp_path)
    assert [task.name for task in both] == ["hellaswag", "hellaswag:harness", "lambada"]
    (named,) = opened(f"hellaswag:harness={tmp_path / 'hellaswag_val.jsonl'}")
    assert named.items == both[1].items
    assert named.name == "hellaswag:harness"


def test_without_a_folder_the_cache_has_it_or_it_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("DAYBREAK_CACHE", str(tmp_path / "cache"))
    asked = []

    def fetch(name):
        asked.append(name)
        return write_lines(tmp_path / "fetched.jsonl", HELLASWAG)

    monkeypatch.setattr(downloads, "fetch", fetch)
    assert opened("hellaswag:harness")[0].total == 2
    assert asked == ["hellaswag"]
    (tmp_path / "cache" / "tasks").mkdir(parents=True)
    write_lines(tmp_path / "cache" / "tasks" / "hellaswag_val.jsonl", HELLASWAG[:1])
    assert opened("hellaswag")[0].total == 1
    assert asked == ["hellaswag"]


def test_all_that_is_wrong_is_told_at_once_each_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("DAYBREAK_CACHE", str(tmp_path / "none"))

    def offline(name):
        raise files.FileProblem("there is no network")

    monkeypatch.setattr(downloads, "fetch", offline)
    (tmp_path / "empty.jsonl").write_text("")
    names = ["hellaswg", "lambada", str(tmp_path / "no.jsonl"), f"hellaswag={tmp_path / 'empty.jsonl'}", "nothing=x"]
    with pytest.raises(TaskProblem) as told:
        open_tasks(names, BYTES, most_items=0)
    lines = str(told.value).splitlines()
    assert len(lines) == 6
    for line, words in zip(
        lines,
        (
            ["items: wanted at least 1, came 0"],
            ["hellaswg: no such task; did you mean hellaswag?", "or a .jsonl file"],
            ["lambada: its file is not in", "there is no network", "--task-files"],
            ["no.jsonl: cannot be read"],
            ["empty.jsonl: wanted the items of hellaswag, found none"],
            ["nothing: no such task"],
        ),
        strict=True,
    ):
        assert all(word in line for word in words), line
    with pytest.raises(TaskProblem, match=r"wanted lambada's file, lambada_test.jsonl or .* found none of them there"):
        opened("lambada", folder=tmp_path)


# --- The published files, where they are ---


@pytest.mark.parametrize("name", ["hellaswag", "hellaswag:harness", "lambada", "wikitext"])
def test_the_published_files(name, task_files):
    count = 1 if name == "wikitext" else 40  # its items are whole articles
    (task,) = opened(name, folder=task_files, most_items=count)
    assert task.total == {"hellaswag": 10_042, "lambada": 5153, "wikitext": 62}[name.partition(":")[0]]
    cached, plain = run(task, MODEL, context_length=64), run(task, whole(MODEL), context_length=64)
    for row, wanted in zip(cached.outcomes, plain.outcomes, strict=True):
        assert row.log_likelihoods == pytest.approx(wanted.log_likelihoods, rel=1e-4)
    assert all(figure.n == count for figure in cached.figures().values())

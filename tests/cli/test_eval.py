"""`daybreak eval --tasks` as a person and a program see it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from evaluation.tasks import HELLASWAG, write_lines

from daybreak.cli import main, scores

CHOICES = [{"context": f"Number {i} is", "endings": [f"{i}", f"{i + 1} or so"], "label": i % 2} for i in range(9)]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a run, whose data is not there, and tasks."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_dir, "run")
    shutil.copytree(run_dir / "model", "imported")
    write_lines(Path("mine.jsonl"), CHOICES)
    Path("files").mkdir()
    write_lines(Path("files/hellaswag_val.jsonl"), HELLASWAG)
    write_lines(Path("files/lambada_test.jsonl"), [{"text": "The sun rises at dawn"}, {"text": "A model learns"}])


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    """What the command says, on standard output and standard error."""
    capsys.readouterr()
    status = main(words)
    out, err = capsys.readouterr()
    assert status == 0, err
    return out, err


def object_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    found = json.loads(told(capsys, *words, "--json")[0])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("model", ["run", "imported"])
def test_tasks_need_no_prepared_data(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = object_of(capsys, "eval", model, "--tasks", "hellaswag, hellaswag:harness,lambada,mine.jsonl", "--task-files", "files")
    assert found.keys() == {"model", "data", "tasks", "protocols"}
    assert found["data"] is None
    assert {name: list(metrics) for name, metrics in found["tasks"].items()} == {
        "hellaswag": ["acc", "acc_norm"],
        "hellaswag:harness": ["acc", "acc_norm"],
        "lambada": ["acc", "perplexity"],
        "mine.jsonl": ["acc", "acc_norm"],
    }
    for metrics in found["tasks"].values():
        for figure in metrics.values():
            assert figure.keys() == {"value", "stderr", "n"}
    assert found["tasks"]["mine.jsonl"]["acc"]["n"] == 9
    facts = found["protocols"]["hellaswag"]
    assert facts["protocol"] == "completion"
    assert {"model": "gpt2.124m", "metric": "acc_norm", "value": 0.2955}.items() <= facts["published"][1].items() | facts["published"][
        2
    ].items()
    assert facts["cut"] == 2  # the run's context is of 16 tokens
    assert found["protocols"]["mine.jsonl"]["published"] == []


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = told(capsys, "eval", "run", "--tasks", "hellaswag,mine.jsonl", "--task-files", "files", "--items", "4")
    lines = out.splitlines()
    assert lines[0].split() == ["task", "protocol", "metric", "value", "items", "published"]
    at = lines[0].index("items")
    assert [line[at:].split()[0] for line in lines[1:5]] == ["2", "2", "4", "4"]
    assert lines[2].startswith("hellaswag   completion  acc_norm  0.")
    assert " ± " in lines[2]
    assert lines[2].endswith("gpt2.124m 0.2955, gpt2.355m 0.3752")
    assert "per token, as build-nanogpt and llm.c score it; 2 of 2 items; 2 items were longer than the context" in " ".join(out.split())
    assert "mine.jsonl: each ending behind the context and a space" in out
    assert "4 of 9 items" in " ".join(out.split())
    assert max(map(len, lines)) <= 120
    assert err == ""


def test_items_are_saved_and_models_compared(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "eval",
        "run",
        "--tasks",
        "mine.jsonl,lambada",
        "--task-files",
        "files",
        "--save-items",
        "out/items.jsonl",
        "--against",
        "imported",
    ]
    found = object_of(capsys, *words)
    rows = [json.loads(line) for line in Path("out/items.jsonl").read_text().splitlines()]
    assert [row["task"] for row in rows] == ["mine.jsonl"] * 9 + ["lambada"] * 2
    assert sum(row["acc"] for row in rows[:9]) / 9 == pytest.approx(found["tasks"]["mine.jsonl"]["acc"]["value"])
    other = found["against"]
    assert (other["model"], other["tasks"]) == ("imported", found["tasks"])  # it is the same model
    pair = other["compared"]["mine.jsonl"]["acc_norm"]
    assert (pair["n"], pair["difference"], pair["better"], pair["worse"], pair["significant"]) == (9, 0, 0, 0, False)
    assert other["compared"]["lambada"].keys() == {"acc", "log_likelihood"}
    out, err = told(capsys, *words)
    assert "mine.jsonl acc_norm: run is 0.00 points better than imported" in out
    assert err == "out/items.jsonl: 11 items\n"


def test_the_validation_text_beside_tasks_if_it_is_named(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = object_of(capsys, "eval", "imported", "--tasks", "mine.jsonl", "--data", str(data_dir))
    assert found["data"] == str(data_dir)
    assert list(found["tasks"]) == ["validation", "mine.jsonl"]
    out, _ = told(capsys, "eval", "imported", "--tasks", "mine.jsonl", "--data", str(data_dir))
    assert out.index("validation tokens") < out.index("acc_norm")


def test_numbers_keep_a_sensible_length() -> None:
    assert [scores.number(value) for value in (0.29554, 40.0554, 123456.7, 2.3e9, float("inf"))] == [
        "0.2955",
        "40.06",
        "123,456.70",
        "2.3e+09",
        "inf",
    ]

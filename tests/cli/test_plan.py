"""`daybreak plan` as a person and a program see it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daybreak.cli import main
from daybreak.model.flops import parameter_count

Captured = pytest.CaptureFixture[str]

KEYS = {
    "recipe",
    "parameters",
    "flops_per_token",
    "flops",
    "flops_per_token_6n",
    "flops_6n",
    "steps",
    "train_tokens",
    "memory_bytes",
    "memory",
    "layout",
    "micro_batch",
    "recompute",
    "devices",
    "device",
    "device_memory_bytes",
    "fits",
    "fewest_devices",
    "tokens_per_second",
    "seconds",
    "cost",
    "utilisation",
    "price",
    "edits",
    "notes",
    "dry_run",
    "settings",
}

SAID = "building, dividing and training a step without devices; this may take a minute\n"
TINY = ("model.vocab_size=300", "model.context_length=16", "model.n_layer=2", "model.n_head=2", "model.d_model=32")
FIVE = ("demo-gpt2", "--gpus", "5xl4", "--dry-run", "train.batch_tokens=80", "machine.parallel=fsdp", *TINY)


def told(capsys: Captured, *words: str, status: int = 0) -> str:
    capsys.readouterr()
    came = main(["plan", *words])
    out, err = capsys.readouterr()
    assert (came, err) == (status, SAID if "--dry-run" in words else "")
    return out


def object_of(capsys: Captured, *words: str) -> dict[str, Any]:
    found = json.loads(told(capsys, *words, "--json"))
    assert isinstance(found, dict)
    return found


def table(out: str) -> dict[str, str]:
    """The lines before the settings, by their names; folded lines joined."""
    rows: dict[str, str] = {}
    name = ""
    for line in out.split("\n\n")[0].splitlines()[1:]:
        assert len(line) <= 110
        name = line[:10].strip() or name
        rows[name] = f"{rows.get(name, '')} {line[10:]}".strip()
    return rows


def test_gpt3_on_a_thousand_devices(capsys: Captured) -> None:
    made = object_of(capsys, "gpt3.175b", "--gpus", "1024xa100")
    assert made.keys() == KEYS
    assert made["parameters"] == 174_604_259_328
    assert made["flops_6n"] == pytest.approx(3.14e23, rel=2e-3)
    assert made["flops"] == made["flops_per_token"] * made["train_tokens"]
    assert (made["devices"], made["device"], made["layout"], made["recompute"]) == (1024, "a100", "fsdp", True)
    assert made["memory_bytes"] == sum(made["memory"].values()) < made["device_memory_bytes"] == 80e9
    assert made["seconds"] == pytest.approx(made["flops"] / (1024 * 312e12 * 0.4))
    assert made["cost"] == pytest.approx(made["seconds"] / 3600 * 1024 * made["price"])
    assert made["fits"] is True
    assert made["edits"] == ["train.micro_batch=1", "machine.parallel=fsdp", "machine.recompute=true"]

    rows = table(told(capsys, "gpt3.175b", "--gpus", "1024xa100"))
    assert list(rows) == ["training", "work", "memory", "layout", "time", "cost", "note"]
    assert rows["training"].startswith("300,000,935,936 tokens in 111,355 steps of 3,145,728, growing from 32,768")
    assert "3.143e+23 in all, by 6N" in rows["work"]
    assert rows["memory"].startswith("32.4 GB of the 80.0 GB of each a100, one sequence at a time 2.7 GB weights, gradients")
    assert "divided among 1,024 a100 (fsdp)" in rows["layout"]
    assert rows["layout"].endswith("67 of them would hold it train.micro_batch=1 machine.parallel=fsdp machine.recompute=true")
    assert rows["time"].startswith("29.0 days, 119,929 tokens a second, by 6N + attention at 0.4 of the peak of 1,024 x 312 TFLOP/s")
    assert "device-hours at $1.50 (assumed; --price sets another)" in rows["cost"]


def test_options_change_time_and_cost(capsys: Captured) -> None:
    usual = object_of(capsys, "gpt2.124m", "--gpus", "8xh100")
    made = object_of(capsys, "gpt2.124m", "--gpus", "8xh100", "--utilisation", "0.2", "--price", "10")
    assert made["seconds"] == pytest.approx(2 * usual["seconds"])
    assert made["cost"] == pytest.approx(made["seconds"] / 3600 * 80)
    assert usual["layout"] == "ddp"
    rows = table(told(capsys, "gpt2.124m", "--gpus", "h100", "--price", "10"))
    assert rows["layout"] == "one h100 train.micro_batch=64"
    assert "$10.00 (as given)" in rows["cost"]


def test_without_devices_time_and_cost_are_unknown(capsys: Captured) -> None:
    made = object_of(capsys, "gpt2.124m")
    assert made.keys() == KEYS
    assert made["seconds"] is made["cost"] is made["device"] is made["fits"] is None
    rows = table(told(capsys, "gpt2.124m"))
    assert rows["time"] == "unknown, and so the cost: name the devices, such as --gpus 8xh100"
    assert rows["memory"].startswith("3.1 GB on one device, one sequence at a time")


def test_a_demo_is_seconds_and_megabytes(capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = told(capsys, "demo-gpt2", "--gpus", "l4")
    assert "with 8,192 tokens, as data/demo is not prepared yet" in out
    rows = table(out)
    assert "84.6 MB weights" in rows["memory"]
    assert " seconds, " in rows["time"]
    assert "fills no such device" in rows["note"]


def test_a_dry_run_stands_beside_the_plan(capsys: Captured) -> None:
    made = object_of(capsys, *FIVE)
    assert made.keys() == KEYS
    tried = made["dry_run"]
    assert tried["planned_bytes"] == made["memory"]["states"]
    assert tried["bytes"] == tried["weights"] + tried["gradients"] + tried["moments"] > tried["planned_bytes"]
    assert tried["uneven"]["position_embedding.weight"] == [4, 16]
    assert tried["unexplained_bytes"] == 0
    rows = table(told(capsys, *FIVE))
    assert rows["dry run"].startswith("took a step on 5 devices that are not there, in ")
    assert f"{tried['bytes']:,} in all; the plan's share is {tried['planned_bytes']:,}; " in rows["dry run"]
    assert "those of position_embedding.weight (4 of 16), " in rows["dry run"]
    assert rows["dry run"].endswith("others do not divide evenly")
    alone = table(told(capsys, "demo", "--gpus", "l4", "--dry-run", *TINY))
    assert alone["dry run"].endswith(", the same")


def test_a_plan_that_a_dry_run_contradicts_fails(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daybreak.model.memory.state_bytes", lambda shape, optimizer: 12 * parameter_count(shape, padded=True))
    rows = table(told(capsys, "demo", "--gpus", "l4", "--dry-run", *TINY, status=1))
    assert rows["dry run"].endswith("bytes differ for no reason known here, so do not trust the plan")


def test_help_tells_the_options(capsys: Captured) -> None:
    out = " ".join(told(capsys, "--help").split())
    assert "--gpus NxNAME The devices to plan for, such as h100 or 8xh100; with --table several" in out
    assert "--utilisation SHARE The share of their peak that the devices reach (MFU); 0.4 unless given" in out
    assert "--price DOLLARS What an hour of one device costs" in out


def test_the_largest_plan_needs_no_torch() -> None:
    """Nor numpy: the whole process takes a third of a second (benchmarks/startup.py)."""
    line = (
        "import sys; from daybreak.cli import main; status = main(['plan', 'gpt3.175b', '--gpus', '1024xa100']); "
        "print('END', status, sorted({'torch', 'numpy', 'tiktoken', 'rich', 'ssl'} & set(sys.modules)))"
    )
    came = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120)
    assert came.stdout.splitlines()[-1] == "END 0 []", came.stderr

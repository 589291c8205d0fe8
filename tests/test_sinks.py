"""Sinks: what reaches TensorBoard and W&B, how they go on when a run is resumed, and that none can harm a run."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_settings

from daybreak import sinks
from daybreak.config import ConfigError
from daybreak.metrics import MetricsFile, read
from daybreak.sinks import Sinks, scalars
from daybreak.story import events, run


def event(kind: str, step: int, **values: Any) -> dict[str, Any]:
    return {"event": kind, "step": step, "tokens": 10 * step, **values}


def step(number: int, loss: float = 1.0) -> dict[str, Any]:
    return event("step", number, loss=loss, grad_norm=0.5, learning_rate=1e-3, tokens_per_second=99.0)


class Failing:
    """Fails from some step on, or hangs when it is closed."""

    name = "log.failing"

    def __init__(self, from_step: int) -> None:
        self.from_step, self.told = from_step, 0
        self.closing = threading.Event()

    def write(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        self.told += 1
        if event["step"] >= self.from_step:
            raise ConnectionError("no route\nto host")
        return {}

    def close(self) -> None:
        self.closing.wait()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "_FAREWELL_SECONDS", 0.05)


@pytest.mark.usefixtures("hasty")
def test_a_sink_that_fails_is_told_once_and_left_out(tmp_path: Path) -> None:
    failing = Failing(from_step=3)
    record = MetricsFile(tmp_path / "metrics.jsonl", [failing])
    told = [record.write(step(number)) for number in range(1, 6)]
    record.close()
    failing.closing.set()
    assert failing.told == 3
    warning = "log.failing: left out from here on, as it failed (ConnectionError: no route to host); the run and its own record go on"
    assert [row.get("warning") for row in told] == [None, None, warning, None, None]
    assert list(read(tmp_path / "metrics.jsonl")) == told


@pytest.mark.usefixtures("hasty")
def test_a_sink_that_hangs_at_its_end_holds_nothing_up() -> None:
    failing = Failing(from_step=9)
    both = Sinks([failing])
    both.write(step(1))
    both.close()
    both.close()
    failing.closing.set()


def test_two_that_fail_at_once_are_both_told() -> None:
    one, other = Failing(0), Failing(0)
    one.closing.set()
    other.closing.set()
    assert Sinks([one, other]).write(step(1))["warning"].count("log.failing: left out") == 2


def test_the_numbers_of_events() -> None:
    assert scalars(step(3)) == {
        "train/loss": 1.0,
        "train/grad_norm": 0.5,
        "train/learning_rate": 1e-3,
        "train/tokens_per_second": 99.0,
        "train/tokens": 30.0,
    }
    assert "train/loss" not in scalars(step(3, loss=float("nan")))
    assert scalars(event("eval", 3, val_loss=2.0, perplexity=None, bits_per_byte=1.5)) == {
        "validation/loss": 2.0,
        "validation/bits_per_byte": 1.5,
    }
    told = {"hellaswag": {"metrics": {"acc": {"value": 0.25, "stderr": None}}}}
    assert scalars(event("tasks", 3, tasks=told)) == {"tasks/hellaswag/acc": 0.25}
    assert scalars(event("probe", 3, gradient_norm={"blocks.0": 2.0}, attention_logit={"blocks.0": 7})) == {
        "probe/gradient_norm/blocks.0": 2.0,
        "probe/attention_logit/blocks.0": 7.0,
    }
    assert scalars(event("checkpoint", 3, path="x", seconds=1.0)) == {}


def test_what_is_not_installed_is_told_before_anything_is_written(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as problem:
        run(tiny_settings(data_dir, "log.tensorboard=true", "log.wandb=dawn"), tmp_path / "run")
    assert problem.value.problems == [
        "log.tensorboard: wanted the package tensorboard, which is not installed; get it with pip install 'daybreak[tensorboard]'",
        "log.wandb: wanted the package wandb, which is not installed; get it with pip install 'daybreak[wandb]'",
    ]
    assert not (tmp_path / "run").exists()


def drawn(folder: Path, tag: str) -> list[tuple[int, float]]:
    """The points of a curve as TensorBoard would draw it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(point.step, point.value) for point in accumulator.Scalars(tag)]


def tensorboard() -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own
def test_tensorboard_draws_what_counts(tmp_path: Path) -> None:
    tensorboard()
    told = [event("start", 0), *(step(number, 1.0) for number in range(1, 9)), event("sample", 8, prompt="a", text="b\nc")]
    again = [event("resume", 4), step(5, 2.0), step(6, 2.0), event("rollback", 5), step(6, 3.0), step(7, 3.0)]
    for part in (told, again):
        both = Sinks(sinks.sinks(tmp_path, {}, tensorboard=True, wandb=None))
        assert [both.write(row) for row in part] == [{}] * len(part)
        both.close()
    assert drawn(tmp_path / "tensorboard", "train/loss") == [
        (1, 1.0),
        (2, 1.0),
        (3, 1.0),
        (4, 1.0),
        (5, 2.0),
        (6, 3.0),
        (7, 3.0),
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_stopped_run_goes_on_in_the_same_tensorboard(data_dir: Path, tmp_path: Path) -> None:
    tensorboard()
    settings, out = tiny_settings(data_dir, "log.tensorboard=true"), tmp_path / "run"
    told = []
    story = events(settings, out)
    for row in story:
        told.append(row)
        if row["event"] == "step" and row["step"] == 4:
            import signal

            signal.raise_signal(signal.SIGTERM)
    assert told[-1]["event"] == "stop"
    told += [*events(settings, out)]
    losses = {row["step"]: pytest.approx(row["loss"]) for row in told if row["event"] == "step"}
    points = drawn(out / "tensorboard", "train/loss")
    assert dict(points) == losses
    assert [number for number, _ in points] == list(range(1, 11))
    assert drawn(out / "tensorboard", "validation/loss")[-1][0] == 10


def test_weights_and_biases_offline_goes_on_as_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    identifiers = []
    for first, number in ((event("start", 0), 1), (event("resume", 4), 5)):
        both = Sinks(sinks.sinks(tmp_path / "run", {"train": {"seed": 1}}, tensorboard=False, wandb="team/dawn"))
        (tmp_path / "run").mkdir(exist_ok=True)
        assert both.write(first)["wandb"].startswith(f"wandb sync {tmp_path / 'run' / 'wandb' / 'offline-run-'}")
        assert both.write(step(number)) == {}
        assert both.write(event("sample", number, prompt="<b>", text="c")) == {}
        both.close()
        identifiers.append(json.loads((tmp_path / "run/wandb.json").read_text())["id"])
    assert identifiers[0] == identifiers[1]
    assert len([*(tmp_path / "run/wandb").glob(f"offline-run-*-{identifiers[0]}/run-{identifiers[0]}.wandb")]) == 2

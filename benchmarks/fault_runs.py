"""A tiny run with dropout that comes out the same to the last bit: its text, its settings, and how two of them are compared."""

from __future__ import annotations

import json
import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

from daybreak import checkpoint, config, metrics
from daybreak.data.prepare import prepare
from daybreak.recipes import recipe_settings
from daybreak.settings import Settings

BATCH_TOKENS, EVAL_EVERY = 256, 5120
_WORDS = ("the sun", "a model", "the night", "every token", "a small café", "rises", "learns", "falls", "waits", "at dawn", "once more")


def write_text(path: Path, size: int, seed: int = 0) -> Path:
    """About `size` bytes of documents, one JSON object a line."""
    draw, written = random.Random(seed), 0
    with open(path, "w", encoding="utf-8") as file:
        while written < size:
            words = draw.choices(_WORDS, k=draw.randint(20, 400))
            written += file.write(json.dumps({"text": f"{draw.random()}. {' '.join(words)}\n"}, ensure_ascii=False) + "\n")
    return path


def prepare_text(folder: Path, size: int = 200_000) -> Path:
    """A data folder of bytes, in several shards."""
    source = write_text(folder / "text.jsonl", size)
    for _ in prepare([str(source)], folder / "data", tokenizer="bytes", val_fraction=0.2, workers=1, shard_tokens=50_000):
        pass
    return folder / "data"


def words(data: Path, steps: int, *edits: str) -> list[str]:
    """What the command line is told of the run: 2 layers, 64 wide, batches of 256 tokens, dropout, fp32, an evaluation every 20 steps."""
    return [
        f"data.dir={data}",
        *("model.vocab_size=none", "model.context_length=32", "model.n_layer=2", "model.n_head=2", "model.d_model=64", "model.dropout=0.2"),
        *(f"train.train_tokens={steps * BATCH_TOKENS}", f"train.batch_tokens={BATCH_TOKENS}", "train.warmup_tokens=2560"),
        *("train.learning_rate=3e-3", f"eval.every_tokens={EVAL_EVERY}", "eval.tokens=8192", "eval.final_tokens=16384"),
        *("sample.every_tokens=10240", "sample.prompts=the sun,a model", "sample.max_tokens=16"),
        *("machine.device=cpu", "machine.precision=fp32", "machine.threads=1"),
        *edits,
    ]


def settings(*edits: str) -> Settings:
    """The same for Python's door."""
    return config.edit(recipe_settings("demo"), list(edits))


def events(out: Path) -> list[dict[str, Any]]:
    """Everything that a run has told, in all its lives."""
    path = out / "metrics.jsonl"
    return list(metrics.read(path)) if path.is_file() else []


def differences(out: Path, straight: Path) -> list[str]:
    """In what a run's end is not that of the one that nobody disturbed; an empty list means that every bit is the same.

    Compared are weights, moments and random state, every loss and gradient norm that was told in any of its lives, every evaluation and
    sample, and the finished model; and nothing unfinished may be left.
    """
    wrong = [f"{key} told otherwise" for key, rows in _told(out).items() if rows != _told(straight).get(key)]
    wrong += [f"{key} not told" for key in _told(straight).keys() - _told(out).keys()]
    losses = {event["step"]: _figures(event) for event in events(straight) if event["event"] == "step"}
    wrong += [
        f"step {event['step']}: {_figures(event)}, was {losses.get(event['step'])}"
        for event in events(out)
        if event["event"] == "step" and _figures(event) != losses.get(event["step"])
    ]
    last, wanted = checkpoint.found(out)[-1], checkpoint.found(straight)[-1]
    wrong += [f"{last.name}: {problem}" for problem in checkpoint.problems(last)]
    wrong += _unlike(last, wanted, without={"manifest.json"})
    wrong += _unlike(out / "model", straight / "model", without={"README.md"})  # the card tells the run's name, and how long it took
    wrong += [f"{name} is missing" for name in ("DONE",) if not (out / name).exists()]
    left = [path for path in out.rglob(".*") if path.is_file() or path.name.endswith(".tmp")]
    return wrong + [f"{path.relative_to(out)} is left" for path in left]


def _told(out: Path) -> dict[str, Any]:
    """By event and step what counts of a run's story."""
    rows = metrics.as_one_run(metrics.read(out / "metrics.jsonl"))
    kept = [row for row in rows if row["event"] in ("step", "eval", "sample", "end")]
    plain = [{key: value for key, value in row.items() if key not in ("time", "tokens_per_second", "data_share", "run")} for row in kept]
    return {f"{row['event']} {row['step']} {row.get('prompt', '')}": row for row in plain}


def _figures(event: dict[str, Any]) -> tuple[float, float]:
    return event["loss"], event["grad_norm"]


def _unlike(folder: Path, wanted: Path, without: Collection[str] = ()) -> list[str]:
    names = {path.name for place in (folder, wanted) if place.is_dir() for path in place.iterdir()} - set(without)
    alike = {name for name in names if (folder / name).is_file() and (wanted / name).is_file()}
    alike = {name for name in alike if (folder / name).read_bytes() == (wanted / name).read_bytes()}
    return [f"{folder.name}/{name} differs" for name in sorted(names - alike)]

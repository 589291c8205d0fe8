"""A model scored on the validation text and on tasks, by one process or by all that train it together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from daybreak import config, machine
from daybreak.corpus import Data
from daybreak.data.batches import validation_windows
from daybreak.evaluation import suite
from daybreak.evaluation.measures import Outcome
from daybreak.evaluation.score import Score, batch_count, score
from daybreak.loading import Model
from daybreak.model.gpt import GPT
from daybreak.model.kv_cache import KVCache
from daybreak.opening import reading_batch
from daybreak.training.parallel import Across, Alone
from daybreak.training.precision import MixedPrecision
from daybreak.world import ALONE, World


def evaluate(model: Model, data: Data) -> Score:
    """Scores a loaded model on the whole validation text of prepared data. Raises ConfigError if their tokenizers differ."""
    if model.tokenizer.fingerprint != data.tokenizer.fingerprint:
        names = f"wanted the model's {model.tokenizer.name} tokenizer, came another ({data.tokenizer.name})"
        raise config.ConfigError([f"{data.folder}: {names}; prepare the text again with --tokenizer MODEL_DIR"])
    precision = MixedPrecision(machine.choose_precision(model.device), model.device)
    return score_validation(model.gpt, data, precision, batch=reading_batch(model.config.context_length, model.device))


def score_validation(
    gpt: GPT,
    data: Data,
    precision: MixedPrecision,
    batch: int,
    most_tokens: int | None = None,
    world: World = ALONE,
    across: Across | None = None,
) -> Score:
    """Scores a GPT on the fixed validation windows, all of them or the first `most_tokens` tokens, each process its share of them."""
    gpt.eval()

    def predict(tokens: Tensor) -> Tensor:
        with precision.autocast():
            logits: Tensor = gpt(tokens)
        return logits

    windows = validation_windows(data.val, gpt.config.context_length, most_tokens)
    shares = [windows[rank :: world.size] for rank in range(world.size)]
    mine = shares[world.rank]
    byte_lengths = data.tokenizer.byte_lengths()
    result = score(predict, data.val, mine, byte_lengths, device=precision.device, batch=batch) if mine else Score(0.0, 0, 0)
    if (across or Alone()).divided:  # every forward pass needs all processes, also those with fewer windows
        with torch.no_grad():
            for _ in range(max(batch_count(share, batch) for share in shares) - batch_count(mine, batch)):
                predict(torch.zeros((1, 1), dtype=torch.int64, device=precision.device))
    nats, tokens, text_bytes = world.total(result.nats, result.tokens, result.text_bytes)
    return Score(nats, int(tokens), int(text_bytes))


def run_tasks(
    tasks: Sequence[suite.Task], gpt: GPT, precision: MixedPrecision, world: World = ALONE, across: Across | None = None
) -> dict[str, dict[str, Any]]:
    """Runs tasks and returns {task: {"metrics": {metric: {value, stderr, n}}, and what stands beside them}}, the same in all processes."""
    gpt.eval()
    told = {}
    for task in tasks:
        result = _run_task(task, gpt, precision, world, across or Alone())
        figures = {name: {"value": row.value, "stderr": row.stderr, "n": row.n} for name, row in result.figures().items()}
        told[task.name] = {"metrics": figures, **result.facts()}
    return told


def _run_task(task: suite.Task, gpt: GPT, precision: MixedPrecision, world: World, across: Across) -> suite.Result:
    def whole(tokens: Tensor, kv_cache: KVCache | None) -> Tensor:
        logits: Tensor = gpt(tokens, kv_cache)
        return logits

    # A model that is divided is read by all processes alike: each forward pass needs them all, and only as a whole gathers its parts.
    part = suite.run(
        task,
        whole if across.divided else gpt,
        context_length=gpt.config.context_length,
        device=precision.device,
        share=(0, 1) if across.divided else (world.rank, world.size),
        autocast=precision.autocast,
    )
    if across.divided or world.size == 1:
        return part
    shares = world.gather([asdict(outcome) for outcome in part.outcomes])
    return suite.merge([replace(part, outcomes=tuple(_outcome(row) for row in rows)) for rows in shares])


def _outcome(row: dict[str, Any]) -> Outcome:
    return Outcome(**{**row, "log_likelihoods": tuple(row["log_likelihoods"])})

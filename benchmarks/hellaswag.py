"""How fast HellaSwag is scored, beside one example at a time, as build-nanogpt does it: 500 items, a model of 124M's shape, one CPU.

    DAYBREAK_GPT2_VOCAB=gpt2.tiktoken python benchmarks/hellaswag.py --file hellaswag_val.jsonl
    ... --precision bf16                            with both in autocast's bf16, theirs entering it for each example
    ... --peer build-nanogpt=DIR                    its own model and its own functions to render and to choose, from a checkout

The plain way renders an example as four rows, the context in each, and takes the losses of all their positions; it runs here with our own
model, unless a peer is given. The weights are random and the same. Both take turns, a tenth of the items each, in one process.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import inspect
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import bar, record
from torch import Tensor
from torch.nn import functional as F

from daybreak import machine
from daybreak.data.tokenizer import load_tokenizer
from daybreak.evaluation import suite
from daybreak.model.config import GPTConfig
from daybreak.model.hf import export_state
from daybreak.model.init import build
from daybreak.training.precision import MixedPrecision

TURNS = 10
Logits = Callable[[Tensor], Tensor]


def plainly(logits: Logits, context: list[int], endings: list[list[int]]) -> tuple[int, int]:
    """One example, four rows: the ending with the smallest sum of losses, and that with the smallest mean."""
    width = len(context) + max(map(len, endings))
    tokens, mask = torch.zeros(len(endings), width, dtype=torch.long), torch.zeros(len(endings), width)
    for row, ending in enumerate(endings):
        tokens[row, : len(context) + len(ending)] = torch.tensor(context + ending)
        mask[row, len(context) : len(context) + len(ending)] = 1
    scores = logits(tokens)[:, :-1].contiguous()
    losses = F.cross_entropy(scores.view(-1, scores.shape[-1]).float(), tokens[:, 1:].reshape(-1), reduction="none")
    losses = losses.view(len(endings), -1) * mask[:, 1:]
    sums = losses.sum(1)
    return int(sums.argmin()), int((sums / mask[:, 1:].sum(1)).argmin())


def defined_in(path: Path, names: dict[str, Any]) -> dict[str, Any]:
    """The classes and functions of a script, without running the rest of it; `names` are those that it would have made itself."""
    kept = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            kept.append(node)
    space = {"__name__": __name__, **names}
    exec(compile(ast.Module(kept, []), str(path), "exec"), space)
    return space


def build_nanogpt(
    folder: Path, ours: Any, encode: Callable[[str], list[int]]
) -> tuple[torch.nn.Module, Callable[..., Any], Callable[..., int]]:
    """The peer's model with our weights, and its functions to render an example and to choose an ending."""
    modules = {"torch": torch, "nn": torch.nn, "F": F, "math": math, "inspect": inspect, "dataclass": dataclasses.dataclass}
    theirs = defined_in(folder / "train_gpt2.py", modules)
    config = ours.config
    model = theirs["GPT"](theirs["GPTConfig"](config.context_length, config.tokens, config.n_layer, config.n_head, config.d_model))
    state = export_state(ours.state_dict(), config)
    turned = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    state = {name: tensor.t() if name.endswith(turned) else tensor for name, tensor in state.items()}
    missing = set(model.load_state_dict(state, strict=False).missing_keys)
    assert missing <= {"lm_head.weight", *(f"transformer.h.{i}.attn.bias" for i in range(config.n_layer))}, missing
    encoder = type("Encoder", (), {"encode": staticmethod(encode)})
    render = defined_in(folder / "hellaswag.py", {"torch": torch, "enc": encoder})["render_example"]
    return model.eval(), render, theirs["get_most_likely_row"]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--file", required=True, help="hellaswag_val.jsonl, or the cleaned form of it")
    options.add_argument("--items", type=int, default=500)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--precision", choices=("fp32", "bf16"), nargs="+", default=["fp32", "bf16"])
    options.add_argument("--peer", help="build-nanogpt=DIR")
    options.add_argument("--n-layer", type=int, default=12, help="fewer, to see that all works")
    chosen = options.parse_args()

    machine.prepare_cpu(chosen.threads)
    tokenizer = load_tokenizer("gpt2")
    (task,) = suite.open_tasks([f"hellaswag={chosen.file}"], tokenizer, most_items=chosen.items)
    with open(chosen.file, encoding="utf-8") as file:
        lines = file.readlines()
    examples = [json.loads(lines[number]) for number in task.numbers]
    model = build(GPTConfig(n_layer=chosen.n_layer), 0).eval()

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text).tolist()
        return ids

    if chosen.peer:
        name, _, folder = chosen.peer.partition("=")
        peer, render, choose = build_nanogpt(Path(folder), model, encode)
    else:
        name = "plain way"

    bars, rows = [], []
    for precision in chosen.precision:
        autocast = MixedPrecision(precision, torch.device("cpu")).autocast

        def one(example: dict[str, Any], autocast: Callable[[], contextlib.AbstractContextManager[Any]] = autocast) -> tuple[int, int]:
            if chosen.peer:
                _, tokens, mask, _ = render(example)
                with autocast():
                    logits, _ = peer(tokens)
                return -1, choose(tokens, mask, logits.float())

            def logits_of(tokens: Tensor) -> Tensor:
                with autocast():
                    return model(tokens)

            return plainly(logits_of, encode(example["ctx"]), [encode(f" {ending}") for ending in example["endings"]])

        ratios = []
        for _ in range(chosen.rounds):
            ours_seconds, plain_seconds = 0.0, 0.0
            parts, theirs = [], {}
            for turn in range(TURNS):
                parts.append(suite.run(task, model, context_length=1024, share=(turn, TURNS), autocast=autocast))
                ours_seconds += parts[-1].seconds
                start = time.perf_counter()
                with torch.no_grad():
                    for number in range(turn, len(examples), TURNS):
                        theirs[number] = one(examples[number])
                plain_seconds += time.perf_counter() - start
            whole = suite.merge(parts)
            agree = agreement(whole, [theirs[i] for i in range(len(examples))], task)
            ratios.append(ours_seconds / plain_seconds)
            rows.append(
                {
                    "precision": precision,
                    "peer": name,
                    "items": len(examples),
                    "threads": chosen.threads,
                    "daybreak_seconds": round(ours_seconds, 2),
                    "peer_seconds": round(plain_seconds, 2),
                    "ratio": round(ratios[-1], 4),
                    "same_choices": agree,
                    **{metric: figure.value for metric, figure in whole.figures().items()},
                }
            )
            print(rows[-1], flush=True)
        share = statistics.median(ratios)
        bars.append(bar(f"seconds for {len(examples)} HellaSwag items as a share of the {name}'s, {precision}", share, "<= 0.3334"))
        bars.append(
            bar(
                f"items on which both choose the same ending, {precision}",
                min(r["same_choices"] for r in rows[-chosen.rounds :]),
                ">= 0.99",
            )
        )
    if {"fp32", "bf16"} <= set(chosen.precision):
        ours, peers = (
            statistics.median(row[whose] for row in rows if row["precision"] == precision)
            for whose, precision in (("daybreak_seconds", "bf16"), ("peer_seconds", "fp32"))
        )
        # build-nanogpt's hellaswag.py computes in fp32 on a CPU; `daybreak eval` in bf16 where the processor has instructions for it.
        bars.append(bar(f"the same, each as it comes: ours in bf16, the {name} in fp32", ours / peers, "<= 0.3334"))
    record("hellaswag", bars, rows, packages=("numpy",))


def agreement(result: suite.Result, theirs: list[tuple[int, int]], task: suite.Task) -> float:
    """The share of items on which both choose the same endings, by sum and by mean; -1 where the peer does not say."""
    same = 0
    for row, reading, (by_sum, by_mean) in zip(result.outcomes, task.readings, theirs, strict=True):
        nats = np.array(row.log_likelihoods)
        means = nats / [len(tail) for tail in reading.continuations]
        same += by_sum in (-1, int(nats.argmax())) and by_mean == int(means.argmax())
    return same / len(theirs)


if __name__ == "__main__":
    main()

"""Decoding on a GPU, a text at a time and many at once: launched kernel by kernel, and replayed as CUDA graphs. A part of gpu.py.

Model and choice of the likeliest token alone; and, in `engine`, what a server's engine makes of it, with all that it does besides.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpu_train import DEVICE, ON_GPU, TINY, Found
from record import bar
from torch import Tensor

from daybreak import machine
from daybreak.inference.engine import Engine
from daybreak.inference.graphs import Recorded, cuda_graphs
from daybreak.inference.paged import PagedCache
from daybreak.inference.pages import Pages, Row
from daybreak.inference.replays import Replays
from daybreak.inference.requests import Limits, Request
from daybreak.inference.sampling import Sampling
from daybreak.model.config import SIZES
from daybreak.model.flops import parameter_count
from daybreak.model.gpt import GPT
from daybreak.model.kv_cache import KVCache

PROMPT = 16
NEW, CAPACITY, ROUNDS = (256, 512, 3) if ON_GPU else (4, 32, 1)
DTYPE = torch.bfloat16 if ON_GPU else torch.float32
# (size, texts at once): tokens a second that are wanted
WANTED = {("124m", 1): 3_000, ("124m", 64): 100_000, ("1558m", 1): None, ("1558m", 64): None}
SHARE = 0.6
"""Of the memory's bandwidth, at 1.5B and one text."""
CLOSE = 2e-2 if ON_GPU else 1e-4

Step = Callable[[Tensor], Tensor]
"""(B,) tokens -> (B, V) logits."""


def decoding() -> Found:
    """Every size and number of texts: tokens a second both ways, and how far their logits are apart."""
    bars: list[dict[str, Any]] = []
    fastest = bandwidth()
    rows: list[dict[str, Any]] = [{"check": "bandwidth", "gigabytes_per_second": round(fastest / 1e9, 1)}]
    for (size, texts), wanted in WANTED.items():
        gpt = model(size)
        recorded = Recorded(gpt, texts, CAPACITY)
        ways = {"launched": lambda gpt=gpt, texts=texts: launched(gpt, texts), "replayed": lambda step=recorded: (step, step.begin)}
        row: dict[str, Any] = {"check": "decoding", "size": size, "texts": texts, "bytes": parameter_count(gpt.config) * DTYPE.itemsize}
        logits = {}
        for name, way in ways.items():
            step, begin = way()
            row[name], logits[name] = tokens_per_second(step, begin, texts)
        row["share_of_bandwidth"] = round(row["bytes"] * row["replayed"] / texts / fastest, 4)
        row["relative_error"] = float((logits["replayed"] - logits["launched"]).norm() / logits["launched"].norm())
        row["engine"] = engine_tokens_per_second(gpt, texts)
        row["relative_error_in_pages"] = in_pages(gpt, texts)
        rows.append(row)
        print(f"  {row}", flush=True)
        bars.append(
            bar(f"{size}, {texts} at once: replayed logits from launched ones, relative error", row["relative_error"], f"<= {CLOSE}")
        )
        bars.append(
            bar(f"{size}, {texts} at once: the same of an engine's steps", row["relative_error_in_pages"], f"<= {CLOSE}"),
        )
        if ON_GPU and wanted:
            bars.append(bar(f"{size}, {texts} at once: tokens a second", row["replayed"], f">= {wanted}"))
        if ON_GPU and (size, texts) == ("1558m", 1):
            bars.append(bar("1558m, one text: share of the measured memory bandwidth", row["share_of_bandwidth"], f">= {SHARE}"))
        del gpt, recorded, ways
        if ON_GPU:
            torch.cuda.empty_cache()
    return bars, rows


def model(size: str) -> GPT:
    """With random weights, in 16 bits on a GPU; tiny without one."""
    config = SIZES["gpt2"][size] if ON_GPU else dataclasses.replace(TINY)
    with torch.device("meta"):
        gpt = GPT(config)
    gpt.to(DTYPE).to_empty(device=DEVICE)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.normal_(0, 0.02)
    return gpt.eval()


def launched(gpt: GPT, texts: int) -> tuple[Step, Callable[[list[list[int]]], Tensor]]:
    """As texts are written without a recording."""
    cache = KVCache(gpt.config, texts, CAPACITY, DEVICE, DTYPE)

    @torch.inference_mode()
    def begin(prompts: list[list[int]]) -> Tensor:
        cache.rewind()
        logits: Tensor = gpt(torch.tensor(prompts, device=DEVICE), cache, lambda x: gpt.unembed(x[:, -1:]))
        return logits[:, 0]

    @torch.inference_mode()
    def step(tokens: Tensor) -> Tensor:
        logits: Tensor = gpt(tokens[:, None], cache)
        return logits[:, 0]

    return step, begin


def tokens_per_second(step: Step, begin: Callable[[list[list[int]]], Tensor], texts: int) -> tuple[float, Tensor]:
    """Of the best round, prompts not counted, and the logits at the end of a text that is the same for all ways."""
    prompts = [[(7 * place + 31 * text) % 250 for place in range(PROMPT)] for text in range(texts)]
    best = 0.0
    for _ in range(ROUNDS + 1):
        tokens = begin(prompts).argmax(dim=-1)
        machine.wait(DEVICE)
        started = time.perf_counter()
        for _ in range(NEW):
            tokens = step(tokens).argmax(dim=-1)
        machine.wait(DEVICE)
        best = max(best, texts * NEW / (time.perf_counter() - started))
    begin(prompts)
    for tokens in given(texts):
        logits = step(tokens)
    return round(best, 1), logits.float().clone()


def engine_tokens_per_second(gpt: GPT, texts: int) -> float:
    """Of requests that arrive together, drawn at temperature 1 and without guesses: the best round, prompts counted."""
    best = 0.0
    limits = Limits(cache_tokens=texts * CAPACITY, running=texts, waiting=texts)
    engine = Engine(gpt, lambda token: b"a", gpt.config.tokens - 1, limits, speculator=None, reuse=False, dtype=DTYPE)
    for _ in range(ROUNDS + 1):  # recordings are made in the first
        for text in range(texts):
            prompt = tuple((7 * place + 31 * text) % 250 for place in range(PROMPT))
            engine.submit(Request(prompt, NEW, Sampling(), text, ignore_eot=True), lambda emitted: None)
        machine.wait(DEVICE)
        started = time.perf_counter()
        while engine.step():
            pass
        machine.wait(DEVICE)
        best = max(best, texts * NEW / (time.perf_counter() - started))
    return round(best, 1)


@torch.inference_mode()
def in_pages(gpt: GPT, texts: int) -> float:
    """How far the logits of an engine's recorded steps are from those of launched ones, the texts at different lengths."""
    ways = []
    for recorded in (False, True):
        pages = Pages(gpt.config, texts * CAPACITY, DEVICE, DTYPE)
        rows = [Row() for _ in range(texts)]
        replays = Replays(gpt, pages, (cuda_graphs() if ON_GPU else lambda work: work)) if recorded else None
        prompts = [[(7 * place + 31 * text) % 250 for place in range(1 + text % PROMPT)] for text in range(texts)]
        for new in (prompts, *([[int(token)] for token in tokens] for tokens in given(texts))):
            parts = [(row, len(one)) for row, one in zip(rows, new, strict=True)]
            assert all(pages.extend(row, row.length + count) for row, count in parts)
            tokens = [token for one in new for token in one]
            logits = None if replays is None else replays(tokens, parts)
            if logits is not None:
                for row, count in parts:
                    row.length += count
            else:
                logits = gpt(torch.tensor([tokens], device=DEVICE), PagedCache(pages, parts))[0]
        ways.append(logits.float().clone())
    return float((ways[1] - ways[0]).norm() / ways[0].norm())


def given(texts: int) -> Iterator[Tensor]:
    """A few tokens for each text, so that rounding cannot lead two ways apart."""
    for number in range(4):
        yield torch.arange(texts, device=DEVICE) * 3 + number


def bandwidth() -> float:
    """Bytes a second that the device's memory has been seen to read and write: the best of some copies."""
    source = torch.ones(2**31 if ON_GPU else 2**24, device=DEVICE, dtype=torch.uint8)
    target, best = torch.empty_like(source), 0.0
    for _ in range(10):
        machine.wait(DEVICE)
        started = time.perf_counter()
        target.copy_(source)
        machine.wait(DEVICE)
        best = max(best, 2 * len(source) / (time.perf_counter() - started))
    return best

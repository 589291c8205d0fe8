"""How a model is read: what comes before its logits, the logits of chosen positions, and a cache if contexts are to be read once.

A vocabulary is wide, so that logits of positions which nobody asks for would cost a third of the work and most of the memory. A GPT is
therefore read in the two halves of its own forward pass; any other predictor gives its logits whole.

B sequences, T tokens, C d_model, V vocabulary, N chosen positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from daybreak.inference.generate import Predictor
from daybreak.model.config import GPTConfig
from daybreak.model.gpt import GPT
from daybreak.model.kv_cache import KVCache

NewCache = Callable[[int, int], KVCache]
"""(B, capacity) -> an empty cache."""


@dataclass(frozen=True)
class Reader:
    """A model, ready to be read."""

    read: Callable[[Tensor, KVCache | None], Tensor]
    """(token ids (B, T), cache) -> the states (B, T, ...) that `logits` takes."""
    logits: Callable[[Tensor], Tensor]
    """States (N, ...) -> logits (N, V)."""
    new_cache: NewCache | None = None
    """Without it every sequence is read whole, in a few fixed shapes, for which a compiled model is compiled once each."""
    halved: bool = False
    """Whether `read` stops short of the logits, so that many tokens can be read at once."""


def reader(predictor: Predictor, shape: GPTConfig | None = None, device: torch.device | str = "cpu") -> Reader:
    """The way to read a predictor: a GPT in halves with a cache, another with a cache if its `shape` is told, else whole."""
    if isinstance(predictor, GPT):
        return Reader(_states(predictor), predictor.unembed, _caches(predictor.config, device), halved=True)
    return Reader(predictor, lambda logits: logits, None if shape is None else _caches(shape, device))


def whole(predictor: Predictor) -> Reader:
    """The way to read a compiled model, or any predictor: every sequence whole, in a few fixed shapes."""
    return Reader(lambda tokens, _: predictor(tokens, None), lambda logits: logits)


def _states(gpt: GPT) -> Callable[[Tensor, KVCache | None], Tensor]:
    def read(tokens: Tensor, kv_cache: KVCache | None) -> Tensor:
        x, shared = gpt.embed(tokens, kv_cache)
        for block in gpt.blocks:
            x = block(x, shared)
        if kv_cache is not None:
            kv_cache.advance(tokens.shape[1])
        return x

    return read


def _caches(shape: GPTConfig, device: torch.device | str) -> NewCache:
    kind = torch.device(device).type

    def new_cache(batch: int, capacity: int) -> KVCache:
        # Keys and values come in autocast's format; another would be converted at every read.
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        return KVCache(shape, batch, capacity, device, dtype)

    return new_cache

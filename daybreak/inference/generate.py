"""Writing: one token after another from any predictor.

A predictor is `(tokens (B, T), kv_cache) -> logits (B, T, V)`: a GPT, a quantized one, one that leaves the stack early, an ensemble.

B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from daybreak.inference.sampling import Sampling, choose
from daybreak.model.kv_cache import KVCache

Predictor = Callable[[Tensor, KVCache | None], Tensor]
"""(token ids (B, T), cache) -> logits (B, T, V); with a cache the ids continue what is in it."""


@torch.no_grad()
def generate(
    predictor: Predictor,
    tokens: Tensor,
    *,
    max_tokens: int,
    context_length: int,
    sampling: Sampling | None = None,
    kv_cache: KVCache | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Yields the next token ids (B,), up to `max_tokens` times, after the prompt `tokens` (B, T), T >= 1.

    Without a cache every step reads the whole text again: slow, and the reference. Where the text outgrows the context, the
    oldest half is forgotten. Raises ValueError for an empty prompt.
    """
    if tokens.shape[1] == 0:
        raise ValueError("prompt: wanted at least one token, came none; begin with the end-of-text token")
    sampling = sampling or Sampling()
    read = 0  # how many of `tokens` the cache holds
    for _ in range(max_tokens):
        if tokens.shape[1] > context_length:
            tokens, read = tokens[:, -max(1, context_length // 2) :], 0
        if kv_cache is None:
            logits = predictor(tokens, None)
        else:
            if read == 0:
                kv_cache.rewind()
            logits = predictor(tokens[:, read:], kv_cache)
            read = tokens.shape[1]
        chosen = choose(logits[:, -1], sampling, generator)
        yield chosen
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)

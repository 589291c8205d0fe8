"""Writing: one token after another from any predictor.

A predictor is `(tokens (B, T), kv_cache) -> logits (B, T, V)`: a GPT, a quantized one, one that leaves the stack early, an ensemble.

B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from daybreak.inference.randomness import uniforms
from daybreak.inference.sampling import Sampling, add_bias, choose, draw, likeliest, penalize, truncate, weighed
from daybreak.model.kv_cache import KVCache

Predictor = Callable[[Tensor, KVCache | None], Tensor]
"""(token ids (B, T), cache) -> logits (B, T, V); with a cache the ids continue what is in it."""

Chooser = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, V), the token ids so far (B, T)) -> the next (B,)."""


def keyed(sampling: Sampling, seed: int, prompt: int) -> Chooser:
    """Chooses the tokens of one text whose first `prompt` tokens are given, as an engine does: by seed and position, with a look back."""
    written: list[int] = []

    def chooser(logits: Tensor, tokens: Tensor) -> Tensor:
        logits = logits.float()
        if sampling.looks_back:
            given = tokens[0, : max(0, tokens.shape[1] - len(written))].tolist()  # what was not forgotten of the prompt
            logits = penalize(logits, sampling, [given], [written])
        logits = add_bias(logits, sampling.logit_bias)
        if sampling.greedy:
            chosen = likeliest(logits)
        else:
            chosen = draw(weighed(truncate(logits, sampling)), uniforms([seed], [prompt + len(written)], logits.device))
        written.append(int(chosen))
        return chosen

    return chooser


def generate(
    predictor: Predictor,
    tokens: Tensor,
    *,
    max_tokens: int,
    context_length: int,
    sampling: Sampling | None = None,
    kv_cache: KVCache | None = None,
    generator: torch.Generator | None = None,
    chooser: Chooser | None = None,
    mode: Callable[[], AbstractContextManager[object]] = torch.no_grad,
) -> Iterator[Tensor]:
    """Yields the next token ids (B,), up to `max_tokens` times, after the prompt `tokens` (B, T), T >= 1.

    A `chooser` takes the place of `sampling` and `generator`. Without a cache every step reads the whole text again: slow, and the
    reference. Where the text outgrows the context, the oldest half is forgotten. `mode` is how it does without gradients:
    `torch.inference_mode` is quicker, and not for a model in shards, which gathers weights that training will use. Raises ValueError for an
    empty prompt.
    """
    if tokens.shape[1] == 0:
        raise ValueError("prompt: wanted at least one token, came none; begin with the end-of-text token")
    how = sampling or Sampling()
    chooser = chooser or (lambda logits, _: choose(logits, how, generator))
    read = 0  # how many of `tokens` the cache holds
    for _ in range(max_tokens):
        with mode():
            if tokens.shape[1] > context_length:
                tokens, read = tokens[:, -max(1, context_length // 2) :], 0
            if kv_cache is None:
                logits = predictor(tokens, None)
            else:
                if read == 0:
                    kv_cache.rewind()
                logits = predictor(tokens[:, read:], kv_cache)
                read = tokens.shape[1]
            chosen = chooser(logits[:, -1], tokens)
            tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        yield chosen  # outside, as whoever takes it is none of ours

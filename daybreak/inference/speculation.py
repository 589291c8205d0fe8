"""Guessing several tokens ahead, so that one forward pass can confirm many: prompt lookup, and a smaller model that drafts.

A guess is only ever a guess. At each position the engine draws the token as it would have, with the number that belongs to (seed,
position), and goes on along the guess as long as that is what it drew. So a text is the same with and without speculation, greedy or
sampled: the rejection rule of Leviathan et al. 2023 for a draft that is certain of its token, with the random numbers shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import nn

from daybreak.inference.generate import Predictor
from daybreak.inference.randomness import uniforms
from daybreak.inference.requests import Request
from daybreak.inference.sampling import add_bias, draw, probabilities
from daybreak.model.config import GPTConfig
from daybreak.model.kv_cache import KVCache

Guess = Callable[[Sequence[int], int], Sequence[int]]
"""(a text's tokens so far, how many at most) -> how it may go on, possibly nothing. It is asked of one text as that grows."""

Speculator = Callable[[Request], Guess]
"""What guesses for a request."""


@final
class PromptLookup:
    """Guesses that what followed the last few tokens before will follow them again (Saxena 2023, "Prompt Lookup Decoding").

    A guess is as long as the ending that it rests on: one token behind one that was seen before, eight behind eight. It costs
    nothing, and is right where a text quotes, lists, or is code.
    """

    def __init__(self, request: Request, longest: int = 8) -> None:
        self._sizes = range(longest, 0, -1)
        self._behind: dict[tuple[int, ...], int] = {}  # n-gram -> where what follows its last appearance begins
        self._seen = 0

    def __call__(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """What followed the longest known ending of `tokens`."""
        for end in range(max(1, self._seen), len(tokens)):  # those that end before the last token, and are followed
            for size in self._sizes:
                if size <= end:
                    self._behind[tuple(tokens[end - size : end])] = end
        self._seen = len(tokens)
        for size in self._sizes:
            start = self._behind.get(tuple(tokens[-size:])) if size <= len(tokens) else None
            if start is not None:
                return tokens[start : start + min(most, size)]
        return ()


def draft_model(predictor: Predictor, config: GPTConfig, length: int = 4) -> Speculator:
    """Guesses with a smaller model of the same vocabulary, that samples as the request asks, but for penalties, with the same numbers."""
    return lambda request: _Draft(predictor, config, request, length)


@final
class _Draft:
    def __init__(self, predictor: Predictor, config: GPTConfig, request: Request, length: int) -> None:
        self._predictor = predictor
        self._config = config
        self._request = request
        self._length = length
        weight = next(predictor.parameters()) if isinstance(predictor, nn.Module) else torch.empty(0)
        self._device, self._dtype = weight.device, weight.dtype
        self._cache: KVCache | None = None
        self._read: list[int] = []

    @torch.inference_mode()
    def __call__(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        most = min(most, self._length, self._config.context_length - len(tokens))
        if most < 1:
            return ()
        self._cache = self._cache or KVCache(self._config, device=self._device, dtype=self._dtype)
        so_far, guessed, sampling = list(tokens), [], self._request.sampling
        same = 0
        while same < min(len(self._read), len(so_far) - 1) and self._read[same] == so_far[same]:
            same += 1
        self._cache.rewind(same)
        self._read = so_far[:same]
        for _ in range(most):
            logits = self._predictor(torch.tensor([so_far[len(self._read) :]], device=self._device), self._cache)[:, -1].float()
            self._read = list(so_far)
            likely = probabilities(add_bias(logits, sampling.logit_bias), sampling)
            guessed.append(int(draw(likely, uniforms([self._request.seed], [len(so_far)], self._device))))
            so_far.append(guessed[-1])
        return guessed

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


MOST_GUESSED = 8
"""Tokens at once."""


@final
class PromptLookup:
    """Guesses that what followed the last few tokens before will follow them again (Saxena 2023, "Prompt Lookup Decoding").

    The longest ending that was seen before, of eight tokens at most, says what followed it last; the ending with that token what followed
    then; and so on. At each token of the text it is counted how often endings as long and as steady would have been right, and a guess
    goes on while the chance that all of it is right is worth its place in the pass.
    """

    LONGEST = 8
    """Tokens of an ending."""
    STEADY = 3
    """Times in a row that an ending was followed by the same token, as far as they are told apart."""
    FIRST, MORE = 0.1, 0.03
    """The shares of a step that a pass takes longer for its second token, and for each one more (docs/LOG.md)."""

    def __init__(self, request: Request) -> None:
        self._followers: dict[tuple[int, ...], tuple[int, int]] = {}  # ending -> what followed it last, and how many times in a row
        self._right: dict[tuple[int, int], tuple[int, int]] = {}  # (size, times) -> how often that was right, of how many
        self._seen = 0

    def __call__(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """How `tokens` may go on; possibly nothing."""
        for at in range(max(1, self._seen), len(tokens)):
            self._learn(tokens[max(0, at - self.LONGEST) : at], tokens[at])
        self._seen = len(tokens)
        guess: list[int] = []
        ending, chance = list(tokens[-self.LONGEST :]), 1.0
        while len(guess) < most and (known := self._known(ending)):
            token, kind = known
            right, asked = self._right.get(kind, (0, 0))
            chance *= (right + 1) / (asked + 2)
            if chance < (self.MORE if guess else self.FIRST):
                break
            guess.append(token)
            ending = [*ending, token][-self.LONGEST :]
        return guess

    def _known(self, ending: Sequence[int]) -> tuple[int, tuple[int, int]] | None:
        """What followed the longest known end of `ending`, and of which kind that is."""
        for size in range(len(ending), 0, -1):
            if found := self._followers.get(tuple(ending[-size:])):
                return found[0], (size, min(found[1], self.STEADY))
        return None

    def _learn(self, ending: Sequence[int], follower: int) -> None:
        if known := self._known(ending):
            token, kind = known
            right, asked = self._right.get(kind, (0, 0))
            self._right[kind] = right + (token == follower), asked + 1
        for size in range(1, len(ending) + 1):
            end = tuple(ending[-size:])
            token, times = self._followers.get(end, (follower, 0))
            self._followers[end] = follower, times + 1 if token == follower else 1


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
        self._device, self._dtype = weight.device, getattr(predictor, "cache_dtype", weight.dtype)
        self._cache: KVCache | None = None
        self._text: list[int] = []  # as it was the last time, with what was guessed behind its first `_given` tokens
        self._given = 0
        self._ahead = length  # how many to guess: more as guesses are right, fewer as they are not

    @torch.inference_mode()
    def __call__(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        pairs = enumerate(zip(self._text, tokens, strict=False))
        same = next((at for at, (mine, its) in pairs if mine != its), min(len(self._text), len(tokens)))
        if guessed := len(self._text) - self._given:
            right = same - self._given
            self._ahead = min(self._length, self._ahead + 2) if right == guessed else max(1, right + 1)
        self._text, self._given = list(tokens), len(tokens)
        self._cache = self._cache or KVCache(self._config, device=self._device, dtype=self._dtype)
        self._cache.rewind(min(same, self._cache.length, len(tokens) - 1))
        sampling = self._request.sampling
        for _ in range(min(most, self._ahead, self._config.context_length - len(tokens))):
            unread = torch.tensor([self._text[self._cache.length :]], device=self._device)
            logits = self._predictor(unread, self._cache)[:, -1].float()
            likely = probabilities(add_bias(logits, sampling.logit_bias), sampling)
            self._text.append(int(draw(likely, uniforms([self._request.seed], [len(self._text)], self._device))))
        return self._text[self._given :]

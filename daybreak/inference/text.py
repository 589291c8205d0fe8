"""A request's text while it is written: tokens, how the next is chosen, and what of it may be shown.

B texts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from daybreak.data.utf8 import Utf8Stream
from daybreak.inference.pages import Row
from daybreak.inference.randomness import uniforms
from daybreak.inference.requests import Emitted, Finish, Scored, Ticket, Top
from daybreak.inference.sampling import Sampling, add_bias, draw, likeliest, penalize, truncate, weighed
from daybreak.inference.speculation import Guess
from daybreak.inference.stopping import StopStrings


class Text:
    """One request under way in an engine."""

    def __init__(self, ticket: Ticket, number: int, guess: Guess | None = None) -> None:
        self.ticket = ticket
        self.request = ticket.request
        self.number = number
        """The order of arrival: who came first is served first."""
        self.tokens = list(self.request.tokens)
        self.row = Row()
        self.guess = guess
        self.scored: list[Scored] = []
        self.admitted = False
        """Whether it was running before."""
        self._stream = Utf8Stream()
        self._stops = StopStrings(self.request.stop)

    @property
    def prompt_length(self) -> int:
        """How many of the tokens are the prompt's."""
        return len(self.request.tokens)

    @property
    def unread(self) -> int:
        """How many tokens the cache does not hold yet; the last of them predicts the next."""
        return len(self.tokens) - self.row.length

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's log-probabilities are still to be told."""
        return self.request.prompt_logprobs and len(self.scored) < self.prompt_length

    def score(self, first: int, logits: Tensor) -> None:
        """Keeps the log-probabilities of the prompt's tokens behind positions `first`, `first` + 1, ..., whose logits (T, V) these are."""
        if not self.scored:
            self.scored.append(Scored(self.tokens[0], None))
        asked = range(len(self.scored), min(first + len(logits) + 1, self.prompt_length))  # read again after a preemption, some are told
        if asked:
            tokens = self.tokens[asked.start : asked.stop]
            told = logprobs_of(logits[asked.start - 1 - first : asked.stop - 1 - first], tokens, self.request.logprobs or 0)
            self.scored += [Scored(token, *one) for token, one in zip(tokens, told, strict=True)]

    def add(
        self, token: int, told: tuple[float, Top] | None, token_bytes: Callable[[int], bytes], eot: int, context_length: int
    ) -> Finish | None:
        """Takes a token and emits what may be shown of it; says why the text ends with it, if it does."""
        self.tokens.append(token)
        written = len(self.tokens) - self.prompt_length
        ended = token == eot and not self.request.ignore_eot
        shown = "" if ended else self._stops.push(self._stream.push(token_bytes(token)))
        finish: Finish | None = None
        if ended or self._stops.stopped:
            finish = "stop"
        elif written >= self.request.max_tokens or len(self.tokens) > context_length:
            finish = "length"
        if finish and not self._stops.stopped:
            shown += self._rest()
        logprob, top = told or (None, ())
        self.ticket.emit(Emitted(shown, token, logprob, top, finish, prompt=self._prompt_once()))
        return finish

    def end(self, finish: Finish, problem: str = "") -> None:
        """Ends it without another token."""
        self.ticket.emit(Emitted(self._rest(), finish=finish, problem=problem, prompt=self._prompt_once()))

    def _rest(self) -> str:
        shown = self._stops.push(self._stream.flush())
        return shown if self._stops.stopped else shown + self._stops.flush()

    def _prompt_once(self) -> tuple[Scored, ...]:
        return tuple(self.scored) if self.request.prompt_logprobs and not self.ticket.written and not self.scores_prompt else ()


class Spot(NamedTuple):
    """A place where a token is to be chosen: behind a text, or behind some tokens that were guessed to follow it."""

    text: Text
    guessed: Sequence[int] = ()


def next_tokens(spots: Sequence[Spot], logits: Tensor) -> list[int]:
    """The token for each spot, from its logits (B, V). Raises PredictionFailed where these are no numbers.

    It depends on the spot's logits, tokens, seed and position alone; equal ways of sampling are taken together only for speed.
    """
    alike: dict[Sampling, list[int]] = {}
    for index, spot in enumerate(spots):
        alike.setdefault(spot.text.request.sampling, []).append(index)
    chosen = [0] * len(spots)
    for sampling, members in alike.items():
        some = logits if len(alike) == 1 else logits[members]
        for index, token in zip(members, _draw(sampling, [spots[index] for index in members], some), strict=True):
            chosen[index] = token
    return chosen


def _draw(sampling: Sampling, spots: Sequence[Spot], logits: Tensor) -> list[int]:
    logits = logits.float()
    if sampling.looks_back:
        written = [[*spot.text.tokens[spot.text.prompt_length :], *spot.guessed] for spot in spots]
        logits = penalize(logits, sampling, [spot.text.request.tokens for spot in spots], written)
    logits = add_bias(logits, sampling.logit_bias)
    if sampling.greedy:
        greedy: list[int] = likeliest(logits).tolist()
        return greedy
    seeds = [spot.text.request.seed for spot in spots]
    positions = [len(spot.text.tokens) + len(spot.guessed) for spot in spots]
    drawn: list[int] = draw(weighed(truncate(logits, sampling)), uniforms(seeds, positions, logits.device)).tolist()
    return drawn


def logprobs_of(logits: Tensor, tokens: Sequence[int], top: int) -> list[tuple[float, Top]]:
    """(T, V) logits and T tokens -> each one's log-probability, and the `top` likeliest in its place."""
    logprobs = logits.float().log_softmax(dim=-1)
    own = logprobs.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    if not top:
        return [(value, ()) for value in own]
    values, indices = logprobs.topk(min(top, logprobs.shape[-1]), dim=-1)
    return [(value, tuple(zip(i, v, strict=True))) for value, i, v in zip(own, indices.tolist(), values.tolist(), strict=True)]

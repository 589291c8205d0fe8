"""One step: the new tokens of several texts through the model at once, and the next token of each.

N new tokens of all texts, W of them whose logits are wanted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from daybreak.inference.paged import PagedCache
from daybreak.inference.pages import Pages
from daybreak.inference.replays import Replays
from daybreak.inference.requests import Top
from daybreak.inference.sampling import PredictionFailed
from daybreak.inference.text import Spot, Text, logprobs_of, next_tokens
from daybreak.model.gpt import GPT


@dataclass(frozen=True)
class Part:
    """What one text reads in a step: its next `count` unread tokens, and behind the last of all some that were guessed."""

    text: Text
    count: int
    guessed: tuple[int, ...] = ()

    @property
    def completes(self) -> bool:
        """Whether the text is then read to its end, and goes on."""
        return self.count == self.text.unread

    def wanted(self) -> range:
        """Of its new tokens, those whose logits are needed."""
        if self.text.scores_prompt:
            return range(self.count)
        return range(self.count - 1, self.count + len(self.guessed)) if self.completes else range(0)


Written = tuple[int, tuple[float, Top] | None]
"""A token, and its log-probabilities where asked for."""

Outcome = list[Written] | PredictionFailed
"""The tokens that a text goes on with, none while its prompt is not read; or that the model is broken."""


def read(gpt: GPT, pages: Pages, parts: Sequence[Part], replays: Replays | None = None) -> list[Outcome]:
    """One forward pass, from a recording where there is one; the rows then hold what was read, without the guesses that were wrong."""
    tokens: list[int] = []
    wanted: list[int] = []
    for part in parts:
        length = part.text.row.length
        wanted += [len(tokens) + index for index in part.wanted()]
        tokens += [*part.text.tokens[length : length + part.count], *part.guessed]
    device = pages.keys.device
    before = [part.text.row.length for part in parts]
    complete = [part.completes and part.text.request.max_tokens > 0 for part in parts]
    ranges = [part.wanted() for part in parts]
    news = [(part.text.row, part.count + len(part.guessed)) for part in parts]
    select = None if len(wanted) == len(tokens) else torch.tensor(wanted, device=device, dtype=torch.long)

    def unembed(x: Tensor) -> Tensor:
        return gpt.unembed(x if select is None else x[:, select])

    logits = None if replays is None else replays(tokens, news)  # (N, V)
    if logits is None:
        logits = gpt(torch.tensor([tokens], device=device), PagedCache(pages, news), unembed)[0]  # (W, V)
    elif select is not None:
        logits = logits[select]
    spots: list[Spot] = []
    columns: list[int] = []
    start = 0
    for part, length, goes_on, needed in zip(parts, before, complete, ranges, strict=True):
        if part.text.scores_prompt:
            part.text.score(length, logits[start : start + part.count])
        if goes_on:
            spots += [Spot(part.text, part.guessed[:index]) for index in range(len(part.guessed) + 1)]
            columns += range(start + len(needed) - len(part.guessed) - 1, start + len(needed))
        start += len(needed)
    logits = logits if len(columns) == len(logits) else logits[columns]
    chosen = _chosen(spots, logits)
    outcomes: list[Outcome] = []
    start = 0
    for part, length, goes_on in zip(parts, before, complete, strict=True):
        count = len(part.guessed) + 1 if goes_on else 0
        outcome = _accepted(part, chosen[start : start + count], logits[start : start + count])
        part.text.row.length = length + part.count + max(0, len(outcome) - 1 if isinstance(outcome, list) else 0)
        outcomes.append(outcome)
        start += count
    return outcomes


def _chosen(spots: Sequence[Spot], logits: Tensor) -> Sequence[int | PredictionFailed]:
    try:
        return next_tokens(spots, logits)
    except PredictionFailed:  # not for all, perhaps
        chosen: list[int | PredictionFailed] = []
        for index, spot in enumerate(spots):
            try:
                chosen += next_tokens([spot], logits[index : index + 1])
            except PredictionFailed as failed:
                chosen.append(failed)
        return chosen


def _accepted(part: Part, chosen: Sequence[int | PredictionFailed], logits: Tensor) -> Outcome:
    """Of the tokens chosen behind each guess, those whose guesses all came true, and with them the first that was guessed wrongly."""
    tokens: list[int] = []
    for index, token in enumerate(chosen):
        if isinstance(token, PredictionFailed):
            return token
        tokens.append(token)
        if index < len(part.guessed) and token != part.guessed[index]:
            break
    asked = part.text.request.logprobs
    told = [None] * len(tokens) if asked is None or not tokens else logprobs_of(logits[: len(tokens)], tokens, asked)
    return list(zip(tokens, told, strict=True))

"""From logits to a token: small pure functions, applied in the field's order.

Penalties for repetition, presence and frequency, logit bias, temperature, top-k, top-p, min-p, typical, draw.

B sequences, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_SORTED_FIRST = 128
"""How many of the likeliest tokens are sorted first, to see whether they have the probability that is to be kept."""
_BLOCK = 256
"""How many tokens are summed at once to find where a draw falls."""
_LEAST = math.exp(-79)
"""The least weight that a token is drawn with, where the likeliest's is 1."""


class PredictionFailed(RuntimeError):
    """The model is broken and predicts nothing; the message says what helps."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 1.0
    """Divides the logits: below 1 bolder, above 1 wilder, 0 always takes the likeliest token."""
    top_k: int | None = None
    """Keep only the k likeliest tokens."""
    top_p: float | None = None
    """Keep only the likeliest tokens that together have this probability (nucleus sampling, Holtzman et al., 2020)."""
    min_p: float | None = None
    """Keep only tokens at least this share as likely as the likeliest (Nguyen et al., 2024)."""
    typical_p: float | None = None
    """Keep only the tokens whose surprise is nearest the expected one and that together have this probability (Meister et al., 2022)."""
    repetition_penalty: float = 1.0
    """Above 1 makes every token that the prompt or the text has less likely (Keskar et al., "CTRL", 2019)."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of every token that the text has; the prompt does not count."""
    frequency_penalty: float = 0.0
    """Subtracted as many times as the text has the token."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Added to the logits of tokens: (token, bias); minus 100 forbids one."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong with these values, as (field, sentence)."""
        if not 0 <= self.temperature < math.inf:
            yield "temperature", f"wanted 0 or more, came {self.temperature}"
        if self.top_k is not None and self.top_k < 1:
            yield "top_k", f"wanted at least 1 or none, came {self.top_k}"
        if self.top_p is not None and not 0 < self.top_p <= 1:
            yield "top_p", f"wanted more than 0 and at most 1, or none, came {self.top_p}"
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            yield "min_p", f"wanted 0 to 1, or none, came {self.min_p}"
        if self.typical_p is not None and not 0 < self.typical_p <= 1:
            yield "typical_p", f"wanted more than 0 and at most 1, or none, came {self.typical_p}"
        if not 0 < self.repetition_penalty < math.inf:
            yield "repetition_penalty", f"wanted more than 0, came {self.repetition_penalty}"
        for name in ("presence_penalty", "frequency_penalty"):
            if not math.isfinite(value := getattr(self, name)):
                yield name, f"wanted a number, came {value}"
        for token, bias in self.logit_bias:
            if token < 0 or not math.isfinite(bias):
                yield "logit_bias", f"wanted a token's id and a number, came {token} and {bias}"

    @property
    def greedy(self) -> bool:
        """Whether it always takes the likeliest token: fp32 would divide by zero below."""
        return self.temperature < 1e-30

    @property
    def looks_back(self) -> bool:
        """Whether it depends on the tokens so far."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


def penalize(logits: Tensor, sampling: Sampling, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]) -> Tensor:
    """(B, V) -> (B, V), less likely where a token is in the row's prompt or in its text so far."""
    if not sampling.looks_back:
        return logits
    logits = logits.clone()
    for row, prompt, text in zip(logits, prompts, texts, strict=True):
        if sampling.repetition_penalty != 1 and (prompt or text):
            seen = torch.tensor(sorted({*prompt, *text}), device=logits.device)
            row[seen] = torch.where(row[seen] > 0, row[seen] / sampling.repetition_penalty, row[seen] * sampling.repetition_penalty)
        if text:
            written, times = torch.unique(torch.tensor(text, device=logits.device), return_counts=True)
            row[written] -= sampling.presence_penalty + sampling.frequency_penalty * times
    return logits


def add_bias(logits: Tensor, bias: Sequence[tuple[int, float]]) -> Tensor:
    """(B, V) -> (B, V) with numbers added to some tokens' logits; tokens outside the vocabulary are passed over."""
    within = [(token, number) for token, number in bias if token < logits.shape[-1]]
    if not within:
        return logits
    tokens, numbers = zip(*within, strict=True)
    added = torch.tensor(numbers, dtype=logits.dtype, device=logits.device).expand(logits.shape[0], -1)
    return logits.index_add(-1, torch.tensor(tokens, device=logits.device), added)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """(B, V) -> (B, V): all but the k largest become minus infinity. Ties at the border all stay."""
    smallest = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """(B, V) -> (B, V): keeps the smallest set of likeliest tokens whose probability reaches p; at least one stays."""
    return _keep_first(logits, -logits, p)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """(B, V) -> (B, V): keeps the tokens at least p times as likely as the likeliest."""
    if p == 0:
        return logits
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(p), -math.inf)


def keep_typical(logits: Tensor, p: float) -> Tensor:
    """(B, V) -> (B, V): keeps the tokens whose -log p(x) is nearest the entropy and whose probability together reaches p."""
    logprobs = logits.log_softmax(dim=-1)
    entropy = -(logprobs.exp() * logprobs).nan_to_num(0.0).sum(dim=-1, keepdim=True)
    return _keep_first(logits, (-logprobs - entropy).abs(), p)


def _keep_first(logits: Tensor, order: Tensor, p: float) -> Tensor:
    """Keeps, in ascending `order` (B, V), the first tokens whose probability reaches p.

    Sorting a whole vocabulary takes longer than a small model's forward pass, so a few are sorted first, and more only for the rows that
    need them; so what is kept of a row does not depend on the others either, not even where tokens are equally likely.
    """
    probabilities = logits.softmax(dim=-1)
    kept = torch.full_like(logits, -math.inf)
    rows, k = torch.arange(len(logits), device=logits.device), _SORTED_FIRST
    while len(rows):
        k = min(k, logits.shape[-1])
        first = order[rows].topk(k, dim=-1, largest=False).indices
        held = probabilities[rows].gather(-1, first)
        before = held.cumsum(dim=-1) - held
        enough = (before[:, -1] >= p) | (k == logits.shape[-1])
        values = logits[rows].gather(-1, first).masked_fill(before >= p, -math.inf)
        kept[rows[enough, None], first[enough]] = values[enough]
        rows, k = rows[~enough], 8 * k
    return kept


def truncate(logits: Tensor, sampling: Sampling) -> Tensor:
    """(B, V) -> (B, V) after temperature, top-k, top-p, min-p and typical: their softmax is what a token is drawn from.

    Raises PredictionFailed where the logits are no numbers. Not for a greedy `sampling`.
    """
    # Subtracting the maximum first keeps tiny temperatures from overflowing to infinity.
    logits = logits - _finite(logits.amax(dim=-1, keepdim=True))
    if sampling.temperature != 1:
        logits.div_(sampling.temperature)
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None and sampling.top_p < 1:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = keep_min_p(logits, sampling.min_p)
    if sampling.typical_p is not None and sampling.typical_p < 1:
        logits = keep_typical(logits, sampling.typical_p)
    return logits


def likeliest(logits: Tensor) -> Tensor:
    """(B, V) -> (B,) the likeliest token of each row. Raises PredictionFailed where the logits are no numbers."""
    highest, where = logits.max(dim=-1)
    _finite(highest)
    return where


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """(B, V) penalized logits -> (B, V) what the next token is drawn from; all on the likeliest where the sampling is greedy."""
    if sampling.greedy:
        return torch.zeros_like(logits).scatter(-1, likeliest(logits)[:, None], 1.0)
    return truncate(logits, sampling).softmax(dim=-1)


def weighed(truncated: Tensor) -> Tensor:
    """(B, V) what `truncate` gives -> (B, V) weights in its place that are proportional to the probabilities, in less time than softmax.

    What weighs less than `_LEAST` becomes 0, as no number in [0, 1) of 53 bits would draw it, and processors take many times as long over
    exponentials that underflow or are of minus infinity.
    """
    return functional.threshold(truncated.clamp_min_(-80.0).exp_(), _LEAST, 0.0, inplace=True)


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """(B, V) probabilities, or what is proportional to them, and (B,) numbers in [0, 1) -> (B,) tokens, by the inverse of the cumulative
    distribution.

    The vocabulary is summed in blocks, and only the block that is met is gone through: the running sum in fp64 of 32 whole vocabularies
    of 50,257 takes 11 ms, a third of a small model's step.
    """
    V = weights.shape[-1]
    whole = weights[:, : V - V % _BLOCK].view(len(weights), V // _BLOCK, _BLOCK)  # a view: copying takes as long as summing
    sums = [whole.sum(dim=-1), weights[:, V - V % _BLOCK :].sum(dim=-1, keepdim=True)]
    edges = functional.pad(torch.cat(sums, dim=-1).cumsum(dim=-1, dtype=torch.float64), (1, 0))
    block, target = _met(edges, uniforms.to(edges)[:, None] * edges[:, -1:])
    places = block * _BLOCK + torch.arange(_BLOCK, device=block.device)  # (B, 256)
    within = weights.gather(-1, places.clamp(max=V - 1)).masked_fill(places >= V, 0)
    token, _ = _met(functional.pad(within.cumsum(dim=-1, dtype=torch.float64), (1, 0)), target - edges.gather(-1, block))
    return (block * _BLOCK + token).squeeze(-1)


def _met(edges: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N + 1) ascending from 0 and (B, 1) -> (B, 1) the interval that each target lies in, and the target.

    It is never an empty interval: a target that rounding has taken to the last edge is taken back.
    """
    last = edges[:, -1:]
    target = torch.minimum(target, torch.nextafter(last, torch.zeros_like(last)))
    return torch.searchsorted(edges, target, right=True) - 1, target


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """(B, V) logits -> (B,) token ids, with no look back. Raises PredictionFailed where the logits are no numbers."""
    logits = add_bias(logits.float(), sampling.logit_bias)
    if sampling.greedy:
        return likeliest(logits)
    return torch.multinomial(truncate(logits, sampling).softmax(dim=-1), 1, generator=generator).squeeze(-1)


def _finite(highest: Tensor) -> Tensor:
    """The largest logits, as they are. Raises PredictionFailed where one is no number."""
    if not highest.isfinite().all():
        raise PredictionFailed("the model predicts NaN or infinity: its weights have diverged; train it with a lower train.learning_rate")
    return highest

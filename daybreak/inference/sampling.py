"""From logits to a token: small pure functions, applied in the field's order (temperature, top-k, top-p, draw).

B sequences, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


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

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong with these values, as (field, sentence)."""
        if not 0 <= self.temperature < math.inf:
            yield "temperature", f"wanted 0 or more, came {self.temperature}"
        if self.top_k is not None and self.top_k < 1:
            yield "top_k", f"wanted at least 1 or none, came {self.top_k}"
        if self.top_p is not None and not 0 < self.top_p <= 1:
            yield "top_p", f"wanted more than 0 and at most 1, or none, came {self.top_p}"


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """(B, V) -> (B, V): all but the k largest become minus infinity. Ties at the border all stay."""
    smallest = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """(B, V) -> (B, V): keeps the smallest set of likeliest tokens whose probability reaches p; at least one stays."""
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    return logits.masked_fill((before >= p).scatter(-1, order, before >= p), -math.inf)


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """(B, V) logits -> (B,) token ids. Raises PredictionFailed where the logits are no numbers."""
    logits = logits.float()
    highest, likeliest = logits.max(dim=-1, keepdim=True)
    if not highest.isfinite().all():
        raise PredictionFailed("the model predicts NaN or infinity: its weights have diverged; train it with a lower train.learning_rate")
    if sampling.temperature < 1e-30:  # fp32 would divide by zero soon
        return likeliest.squeeze(-1)
    # Subtracting the maximum first keeps tiny temperatures from overflowing to infinity.
    logits = (logits - highest) / sampling.temperature
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None and sampling.top_p < 1:
        logits = keep_top_p(logits, sampling.top_p)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(-1)

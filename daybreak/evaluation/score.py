"""How well a model predicts a text: loss, perplexity, bits per byte.

Bits per byte divides by the bytes of the text instead of its tokens, so models with different tokenizers compare, with each other and
with programs such as gzip and xz.
"""

from __future__ import annotations

import gzip
import itertools
import lzma
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from daybreak.data.batches import Tokens


@dataclass(frozen=True)
class Score:
    """What a model needed to predict a text."""

    nats: float
    """The sum of -log p over all predicted tokens."""
    tokens: int
    text_bytes: int
    """UTF-8 bytes of the predicted tokens; the end-of-text token has none, so its cost counts against the model."""

    @property
    def loss(self) -> float:
        """Mean nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss): among how many equally likely tokens the model hesitated."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """nats / ln 2 / bytes."""
        return self.nats / math.log(2) / max(1, self.text_bytes)

    def figures(self) -> dict[str, float]:
        """The three by name."""
        return {"val_loss": self.loss, "perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}


@torch.no_grad()
def score(
    predict: Callable[[Tensor], Tensor],
    tokens: Tokens,
    windows: Iterable[tuple[int, int]],
    byte_lengths: NDArray[np.int64],
    *,
    device: torch.device | str = "cpu",
    batch: int = 8,
) -> Score:
    """Scores `predict` ((B, T) ids -> (B, T, V) logits) on windows (start, length) of a text; each predicts its `length` next tokens.

    `batch` changes the speed only: windows of equal length are scored together, and none is padded.
    """
    nats, count, text_bytes = 0.0, 0, 0
    for length, starts in _groups(windows, batch):
        ids = torch.from_numpy(tokens.windows(np.array(starts, dtype=np.int64), length + 1).astype(np.int64)).to(device)
        logits = predict(ids[:, :-1])
        losses = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        # In fp64, as over millions of tokens fp32 would lose digits and depend on the batch; on the CPU, as not every device has fp64.
        nats += float(losses.cpu().double().sum())
        count += losses.numel()
        text_bytes += int(byte_lengths[ids[:, 1:].cpu().numpy()].sum())
    if count == 0:
        raise ValueError("the validation text is empty; prepare the data with a larger --val-fraction")
    return Score(nats, count, text_bytes)


def batch_count(windows: Iterable[tuple[int, int]], batch: int) -> int:
    """How many times `score` would call the model for these windows."""
    return sum(1 for _ in _groups(windows, batch))


def compressed_bits_per_byte(text: bytes) -> dict[str, float]:
    """What `gzip -9` and `xz -9` need for the same text: a scale that anyone understands."""
    if not text:
        raise ValueError("the text to compress is empty")
    sizes = {"gzip -9": len(gzip.compress(text, 9)), "xz -9": len(lzma.compress(text, preset=9))}
    return {name: 8 * size / len(text) for name, size in sizes.items()}


def _groups(windows: Iterable[tuple[int, int]], batch: int) -> Iterator[tuple[int, list[int]]]:
    """Windows gathered by equal length, `batch` at a time: (length, starts)."""
    for length, same in itertools.groupby(windows, key=lambda window: window[1]):
        starts = (start for start, _ in same)
        while group := list(itertools.islice(starts, batch)):
            yield length, group

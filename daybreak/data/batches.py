"""Batches as a pure function of the step: `batches[step]` needs no loader, no worker and no state.

Training text is cut into windows of context_length + 1 tokens that overlap by one, so that every token is predicted once. An epoch
visits each window once, in an order that depends on the seed and the epoch only. Each step takes the next windows of that order, as
many as its batch holds; rank r takes its share of them. To resume is to index, and any number of devices sees the same global batches.

B sequences in a micro-batch, T context_length.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from daybreak.data.order import Permutation
from daybreak.data.skipped import Skipped
from daybreak.data.steps import Steps, indivisible


class Batch(NamedTuple):
    """What an objective sees of the data. `weights` None means that every token counts 1."""

    inputs: Tensor
    """(B, T) token ids."""
    targets: Tensor
    """(B, T) the token that follows each."""
    weights: Tensor | None = None
    """(B, T) how much each target counts in the loss."""


class Tokens(Protocol):
    """A long row of token ids, such as `shards.TokenStream`."""

    def __len__(self) -> int: ...

    def windows(self, starts: NDArray[np.int64], length: int) -> NDArray[np.generic]:
        """(n,) starts -> (n, length) token ids."""


class Batches:
    """`batches[step]` is the list of micro-batches of this rank at that step."""

    def __init__(
        self,
        tokens: Tokens,
        *,
        context_length: int,
        batch_tokens: int | Steps,
        micro_batch: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Raises ValueError if the text is too short for a window, or the batch cannot be divided as asked.

        `batch_tokens` counts all ranks, and is Steps where the batch grows; `micro_batch` is the number of sequences that one device
        computes at once.
        """
        self.steps = batch_tokens if isinstance(batch_tokens, Steps) else Steps(batch_tokens)
        self.context_length, self.micro_batch = context_length, micro_batch
        self.rank, self.world_size, self.seed = rank, world_size, seed
        if problem := indivisible(self.steps.start_tokens, context_length, micro_batch, world_size):
            raise ValueError(f"batch_tokens: {problem}")
        self.windows = (len(tokens) - 1) // context_length
        if self.windows < 1:
            raise ValueError(
                f"the training text has {len(tokens):,} tokens, wanted at least {context_length + 1:,} for one window of "
                f"context_length = {context_length}; add text or set model.context_length lower"
            )
        self._tokens = tokens
        self.skipped = Skipped()
        """What training leaves out of the order, after a rollback."""

    def tokens_after(self, step: int) -> int:
        """How many tokens have been trained on when `step` is done."""
        return self.steps.before(step + 1)

    def __getitem__(self, step: int) -> list[Batch]:
        """This rank's micro-batches at `step`, in host memory."""
        share = self.steps.batch(step) // self.context_length // self.world_size
        first = self.steps.before(step) // self.context_length + self.rank * share
        windows = self.window_numbers(self.skipped.places(np.arange(first, first + share, dtype=np.int64)))
        taken = self._tokens.windows(windows * self.context_length, self.context_length + 1)
        ids = torch.from_numpy(taken.astype(np.int64))  # (share, T + 1)
        return [Batch(rows[:, :-1], rows[:, 1:]) for rows in torch.split(ids, self.micro_batch)]

    def skip(self, first: int, last: int) -> None:
        """Leaves out from now on what the steps `first` to `last` would see; what comes after moves up."""
        bounds = (self.steps.before(first) // self.context_length, self.steps.before(last + 1) // self.context_length)
        self.skipped = self.skipped.without(*bounds)

    def window_numbers(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which window stands at each position of the endless sequence of epochs: (N,) -> (N,)."""
        epochs = positions // self.windows
        numbers = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            numbers[here] = Permutation(self.windows, f"{self.seed}:{epoch}")(positions[here] - epoch * self.windows)
        return numbers


class Ahead:
    """Wraps batches so that the next one is read, and copied to the device, while this one computes."""

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self.batches, self._device = batches, device
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._next: tuple[int, Future[list[Batch]]] | None = None
        self.waited = 0.0
        """Seconds that whoever asked has had to wait, since the beginning."""

    def tokens_after(self, step: int) -> int:
        """As the wrapped batches say."""
        return self.batches.tokens_after(step)

    def __getitem__(self, step: int) -> list[Batch]:
        expected, self._next = self._next, None  # a read that failed is told once, and tried again if asked again
        asked = time.perf_counter()
        batch = expected[1].result() if expected is not None and expected[0] == step else self._read(step)
        self.waited += time.perf_counter() - asked
        self._next = (step + 1, self._reader.submit(self._read, step + 1))
        return batch

    def close(self) -> None:
        """Ends the reading thread."""
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _read(self, step: int) -> list[Batch]:
        on_gpu = self._device.type == "cuda"
        return [
            Batch(*(None if part is None else _to(part, self._device, pin=on_gpu) for part in micro))  # type: ignore[arg-type]
            for micro in self.batches[step]
        ]


def validation_windows(tokens: Tokens, context_length: int, most_tokens: int | None = None) -> list[tuple[int, int]]:
    """The fixed validation set: (start, length) of windows in the order of the text, each predicting its `length` next tokens.

    All of the text, in consecutive windows of which the last is shorter; or `most_tokens` of it, in windows spread evenly, as the
    beginning alone would be only a few documents. Nothing of it depends on batch size or devices.
    """
    total = len(tokens) - 1
    windows = [(start, min(context_length, total - start)) for start in range(0, total, context_length)]
    if most_tokens is None or most_tokens >= total:
        return windows
    count = -(-most_tokens // context_length)
    spread = [windows[i * len(windows) // count] for i in range(count)]
    start, length = spread[-1]
    surplus = sum(length for _, length in spread) - most_tokens
    return [*spread[:-1], (start, length - max(0, surplus))]


def _to(part: Tensor, device: torch.device, pin: bool) -> Tensor:
    return (part.pin_memory() if pin else part).to(device, non_blocking=True)

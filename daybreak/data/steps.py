"""Tokens into steps: the arithmetic of a run's length and of how a batch grows and is divided. Plain numbers, no torch."""

from __future__ import annotations

from bisect import bisect_left


class Steps:
    """How many tokens each step trains on, and how many come before it.

    The batch may grow: GPT-3 goes "linearly from a small value (32k tokens) to the full value over the first 4-12 billion tokens of
    training" (paper, appendix B). Ours grows by whole multiples of `start_tokens`, so that whatever divides the first batch divides all.
    """

    def __init__(self, batch_tokens: int, start_tokens: int | None = None, ramp_tokens: int = 0) -> None:
        """`batch_tokens` is the full batch, reached once `ramp_tokens` have been trained on. Raises ValueError as `ramp_problem` says."""
        if problem := ramp_problem(batch_tokens, start_tokens, ramp_tokens):
            raise ValueError(problem)
        self.batch_tokens, self.start_tokens, self.ramp_tokens = batch_tokens, start_tokens or batch_tokens, ramp_tokens
        self._before = [0]  # tokens before each step of the ramp, and before the first one after it
        while self.start_tokens < batch_tokens and self._before[-1] < ramp_tokens:
            self._before.append(self._before[-1] + self._batch_at(self._before[-1]))

    def batch(self, step: int) -> int:
        """How many tokens the step with this number trains on."""
        return self._batch_at(self._before[step]) if step < len(self._before) - 1 else self.batch_tokens

    def before(self, step: int) -> int:
        """How many tokens have been trained on when the step with this number begins."""
        ramp = len(self._before) - 1
        return self._before[step] if step <= ramp else self._before[ramp] + (step - ramp) * self.batch_tokens

    def count(self, tokens: int) -> int:
        """How many steps it takes to train on `tokens`, the last one rounded up."""
        if tokens <= self._before[-1]:
            return bisect_left(self._before, tokens)
        return len(self._before) - 1 + -(-(tokens - self._before[-1]) // self.batch_tokens)

    def _batch_at(self, tokens: int) -> int:
        """The straight line from the first batch to the full one, rounded down to a multiple of the first; in integers, so exact."""
        rise = (self.batch_tokens - self.start_tokens) * tokens
        return (self.start_tokens * self.ramp_tokens + rise) // (self.start_tokens * self.ramp_tokens) * self.start_tokens


def ramp_problem(batch_tokens: int, start_tokens: int | None, ramp_tokens: int) -> str:
    """Why a batch cannot grow as asked; '' if it can."""
    if start_tokens is None:
        return "wanted batch_start_tokens too, came only batch_ramp_tokens" if ramp_tokens else ""
    if start_tokens > batch_tokens or batch_tokens % start_tokens:
        near = [size for size in (batch_tokens // start_tokens * start_tokens, -(-batch_tokens // start_tokens) * start_tokens) if size]
        sizes = " or ".join(f"{size:,}" for size in dict.fromkeys(near))
        return f"wanted a divisor of batch_tokens = {batch_tokens:,}, came {start_tokens:,}; set it otherwise, or batch_tokens to {sizes}"
    if start_tokens < batch_tokens and ramp_tokens < 1:
        return f"wanted batch_ramp_tokens too, over which the batch grows to {batch_tokens:,}, came none"
    return ""


def indivisible(batch_tokens: int, context_length: int, micro_batch: int, world_size: int = 1) -> str:
    """Why a batch cannot be divided into micro-batches of whole sequences, with the nearest legal sizes; '' if it can."""
    unit = context_length * micro_batch * world_size
    if batch_tokens >= unit and batch_tokens % unit == 0:
        return ""
    below, above = batch_tokens // unit * unit, (batch_tokens // unit + 1) * unit
    near = " and ".join(f"{size:,}" for size in (below, above) if size > 0)
    devices = f" x {world_size} devices" if world_size > 1 else ""
    return (
        f"wanted a multiple of {unit:,} (context_length {context_length} x micro_batch {micro_batch}{devices}), "
        f"came {batch_tokens:,}; nearest {near}"
    )


def largest_micro_batch(sequences: int, most: int) -> int:
    """The largest divisor of `sequences` that is at most `most`."""
    return max(divisor for divisor in range(1, max(1, most) + 1) if sequences % divisor == 0)

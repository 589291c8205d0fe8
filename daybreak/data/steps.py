"""Tokens into steps: the arithmetic of a run's length and of how a batch is divided. Plain numbers, no torch."""

from __future__ import annotations


def steps_for(train_tokens: int, batch_tokens: int) -> int:
    """How many steps of `batch_tokens` it takes to see `train_tokens`, the last one rounded up."""
    return -(-train_tokens // batch_tokens)


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

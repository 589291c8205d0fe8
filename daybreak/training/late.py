"""Figures of a step for the host, read one step late where the device is asynchronous, so that neither waits for the other.

    late: Late[Step] = Late(device)
    for step in train(...):
        for earlier, figures in late.put(step, step.verdict.figures):
            ...                                   # on a CPU that is this step, on a GPU the one before
    for earlier, figures in late.rest(): ...      # before a save and at the end: all that is still under way

While the GPU computes step n the host reads step n - 1, whose figures were copied to it meanwhile; the next kernels are queued in time.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import Tensor

About = TypeVar("About")


class Late(Generic[About]):
    """Gives back what was put in, in order: at once, or after the next was put in."""

    def __init__(self, device: torch.device) -> None:
        self._late = device.type == "cuda"
        self._waiting: tuple[About, Tensor, torch.cuda.Event | None] | None = None

    def put(self, about: About, figures: Tensor) -> list[tuple[About, list[float]]]:
        """Begins to read `figures` (N,) and returns what was asked for before, with its numbers."""
        if not self._late:
            return [(about, figures.tolist())]
        here = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=figures.is_cuda)
        here.copy_(figures, non_blocking=True)
        arrived = None
        if figures.is_cuda:
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        earlier = self.rest()
        self._waiting = (about, here, arrived)
        return earlier

    def rest(self) -> list[tuple[About, list[float]]]:
        """All that is still to be told; waits for the device."""
        if self._waiting is None:
            return []
        about, here, arrived = self._waiting
        self._waiting = None
        if arrived is not None:
            arrived.synchronize()
        return [(about, here.tolist())]

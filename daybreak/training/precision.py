"""Mixed precision: matrix products in 16 bits, weights, sums and optimizer in 32 (Micikevicius et al., 2018).

bf16 has fp32's range and needs no more than autocast. fp16 does not: small gradients vanish, so the loss is scaled up before the
backward pass and the gradients down after it.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor


class MixedPrecision:
    """What the loop needs of a number format: where to compute in it, and how to keep its gradients in range."""

    def __init__(self, precision: str, device: torch.device) -> None:
        self.precision = precision
        self.device = device
        self._dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Within it matrix products are computed in the 16-bit format; in fp32 nothing changes."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    def backward(self, loss: Tensor) -> None:
        """The backward pass, of the scaled loss where the format needs it."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Brings the gradients back to their true size."""
        if self._scaler.is_enabled():
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer's step; in fp16 left out where a gradient overflowed."""
        self._scaler.step(optimizer)

    def update(self) -> None:
        """Adjusts the scale after a step, taken or not."""
        if self._scaler.is_enabled():
            self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The scale and its counters; empty unless fp16."""
        state: dict[str, Any] = self._scaler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved scale."""
        if state:
            self._scaler.load_state_dict(state)

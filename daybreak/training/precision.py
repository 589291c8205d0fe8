"""Mixed precision: matrix products in 16 bits, weights, sums and optimizer in 32 (Micikevicius et al., 2018).

bf16 has fp32's range and needs no more than autocast. fp16 does not: small gradients vanish, so the loss is scaled up before the
backward pass and the gradients down after it. The scale halves when a gradient overflows and doubles after a long time without, as
torch's GradScaler has it; but it follows the guard's verdict, so it is the same on every rank, and nobody waits for the device.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from daybreak.training.guard import Verdict
from daybreak.training.optimizers.guarded import guarded_step

_FIRST_SCALE, _LARGEST_SCALE = 2.0**16, 2.0**60
_PATIENCE = 2000
"""Steps without an overflow after which the scale is doubled."""


class MixedPrecision:
    """What the loop needs of a number format: where to compute in it, and how to keep its gradients in range."""

    def __init__(self, precision: str, device: torch.device) -> None:
        self.precision = precision
        self.device = device
        self._dtype = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self._scaled = precision == "fp16"
        self._scale = torch.tensor(_FIRST_SCALE, device=device)
        self._in_range = torch.zeros((), dtype=torch.int64, device=device)  # steps since the scale last changed

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Within it matrix products are computed in the 16-bit format; in fp32 nothing changes."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    def backward(self, loss: Tensor) -> None:
        """The backward pass, of the scaled loss where the format needs it."""
        (loss * self._scale if self._scaled else loss).backward()  # type: ignore[no-untyped-call]

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Brings the gradients back to their true size; what overflowed stays infinite or NaN, and shows in the gradient norm."""
        if not self._scaled:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(1.0 / self._scale)

    def step(self, optimizer: torch.optim.Optimizer, verdict: Verdict) -> None:
        """The optimizer's step if the verdict accepts it; the scale is adjusted either way."""
        guarded_step(optimizer, verdict.accepted)
        if self._scaled:
            in_range = torch.where(verdict.finite, self._in_range + 1, 0)
            grows = in_range == _PATIENCE
            grown = torch.where(grows, 2.0 * self._scale, self._scale).clamp_max(_LARGEST_SCALE)
            self._scale = torch.where(verdict.finite, grown, 0.5 * self._scale)
            self._in_range = torch.where(grows, 0, in_range)

    def state_dict(self) -> dict[str, Any]:
        """The scale and its counter as JSON; empty unless fp16."""
        return {"scale": self._scale.item(), "_growth_tracker": self._in_range.item()} if self._scaled else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved scale."""
        if state:
            self._scale = torch.tensor(state["scale"], device=self.device)
            self._in_range = torch.tensor(state["_growth_tracker"], device=self.device)

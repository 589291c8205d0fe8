"""An optimizer's step that happens only if the device says so: refused, it changes no bit of weights or moments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor


class StepsIf(torch.optim.Optimizer, ABC):
    """An optimizer of ours that reads the decision on the device."""

    @abstractmethod
    def step_if(self, accepted: Tensor | None) -> None:
        """Takes the step if `accepted` () bool, without waiting to hear of it; None is yes."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        self.step_if(None)
        return loss


def guarded_step(optimizer: torch.optim.Optimizer, accepted: Tensor) -> None:
    """Takes the step if `accepted` () bool.

    torch's fused Adam and AdamW read the decision on the device, as `found_inf` (the way of torch.amp.GradScaler, on CPUs too), and so do
    ours that are a `StepsIf`. For all others the host decides, and waits for the device. The fused SGD among them: it would count a
    refused first step as taken, and go on with a momentum that was never written.
    """
    if isinstance(optimizer, StepsIf):
        optimizer.step_if(accepted)
    elif isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW) and optimizer.defaults["fused"]:
        optimizer.found_inf = (~accepted).float()  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf  # type: ignore[attr-defined]
    elif accepted:
        optimizer.step()

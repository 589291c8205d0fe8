"""An optimizer's step that happens only if the device says so: refused, it changes no bit of weights or moments."""

from __future__ import annotations

import torch
from torch import Tensor


def guarded_step(optimizer: torch.optim.Optimizer, accepted: Tensor) -> None:
    """Takes the step if `accepted` () bool.

    torch's fused Adam and AdamW read the decision on the device, as `found_inf` (the way of torch.amp.GradScaler, on CPUs too). For all
    others the host decides, and waits for the device. The fused SGD among them: it would count a refused first step as taken, and go on
    with a momentum that was never written.
    """
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW) and optimizer.defaults["fused"]:
        optimizer.found_inf = (~accepted).float()  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf  # type: ignore[attr-defined]
    elif accepted:
        optimizer.step()

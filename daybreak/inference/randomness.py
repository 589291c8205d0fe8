"""Random numbers that depend on a request's seed and a position, and on nothing else: not on the batch, nor on what was drawn before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1), by Philox 4x64 (Salmon et al., 2011): its counter is the position, its key the seed."""
    bits = np.random.Philox(counter=[position, 0, 0, 0], key=[seed, 0]).random_raw()
    return float(bits >> 11) * 2.0**-53


def uniforms(seeds: Sequence[int], positions: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """(B,) one number for each row's seed and position."""
    drawn = [uniform(seed, position) for seed, position in zip(seeds, positions, strict=True)]
    return torch.tensor(drawn, dtype=torch.float64, device=device)

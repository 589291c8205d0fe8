"""Rotary positions: queries and keys are turned by angles that grow with their position, so that a score depends on the distance only.

Channel i of a head and channel i + D/2 are the two coordinates of a point in a plane; at position t it is turned by t / base^(2i / D).
The scalar product of two turned points depends on the difference of their angles, hence of their positions (Su et al. 2021, "RoFormer",
section 3.2). The early pairs turn fast and tell near positions apart, the late ones slowly.

B batch, T tokens, H heads, D head size.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from daybreak.model.config import GPTConfig

Rotation = tuple[Tensor, Tensor]
"""For tokens' positions, (T, 1, D) or (B, T, 1, D) in fp32: what each channel is multiplied with, and what the other of its pair is."""


class Rotary:
    """The rotations of a model's positions."""

    def __init__(self, config: GPTConfig) -> None:
        self._shape = (config.context_length, config.head_size, config.rotary_base)

    def __call__(self, positions: Tensor) -> Rotation:
        """(T,) or (B, T) positions -> their rotation."""
        # Not kept while compiling, where the compiler folds it into what follows, nor for tensors that only pretend to hold numbers.
        keep = type(positions) is Tensor and not torch.compiler.is_compiling()
        own, other = (_kept if keep else _built)(*self._shape, positions.device)  # each (context_length, D)
        return own[positions][..., None, :], other[positions][..., None, :]


def turned(x: Tensor, rotation: Rotation) -> Tensor:
    """(B, T, H, D) queries or keys -> (B, T, H, D), each turned by its position; computed in fp32 at least."""
    own, other = rotation
    return torch.addcmul(x * own, x.roll(x.shape[-1] // 2, -1), other).to(x.dtype)


def _built(context_length: int, head_size: int, base: float, device: torch.device) -> Rotation:
    """In fp64 up to cosine and sine, as in fp32 the angles of far positions are off by more than rounding."""
    pairs = torch.arange(0, head_size, 2, dtype=torch.float64)
    angles = torch.outer(torch.arange(context_length, dtype=torch.float64), base ** (-pairs / head_size))
    cosines, sines = angles.cos().float(), angles.sin().float()
    return torch.cat([cosines, cosines], dim=-1).to(device), torch.cat([-sines, sines], dim=-1).to(device)


@lru_cache(maxsize=4)
def _kept(context_length: int, head_size: int, base: float, device: torch.device) -> Rotation:
    with torch.inference_mode(False):  # it may be used for training later
        return _built(context_length, head_size, base, device)

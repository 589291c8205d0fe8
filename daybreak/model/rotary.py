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
"""Cosine and sine of the angles of tokens' positions, (T, 1, D/2) or (B, T, 1, D/2), in fp32."""


class Rotary:
    """The rotations of a model's positions."""

    def __init__(self, config: GPTConfig) -> None:
        self._shape = (config.context_length, config.head_size, config.rotary_base)

    def __call__(self, positions: Tensor) -> Rotation:
        """(T,) or (B, T) positions -> their rotation."""
        # Not kept while compiling, where the compiler folds it into what follows, nor for tensors that only pretend to hold numbers.
        keep = type(positions) is Tensor and not torch.compiler.is_compiling()
        cosines, sines = (_kept if keep else _built)(*self._shape, positions.device)
        return cosines[positions][..., None, :], sines[positions][..., None, :]


def turned(x: Tensor, rotation: Rotation) -> Tensor:
    """(B, T, H, D) queries or keys -> (B, T, H, D), each turned by its position; computed in fp32 at least."""
    cosines, sines = rotation
    one, two = x.chunk(2, dim=-1)
    return torch.cat([one * cosines - two * sines, two * cosines + one * sines], dim=-1).to(x.dtype)


def _built(context_length: int, head_size: int, base: float, device: torch.device) -> Rotation:
    """(context_length, D/2) cosines and sines. In fp64 until there, as fp32 angles of far positions are off by more than is noise."""
    pairs = torch.arange(0, head_size, 2, dtype=torch.float64)
    angles = torch.outer(torch.arange(context_length, dtype=torch.float64), base ** (-pairs / head_size))
    return angles.cos().float().to(device), angles.sin().float().to(device)


@lru_cache(maxsize=4)
def _kept(context_length: int, head_size: int, base: float, device: torch.device) -> Rotation:
    with torch.inference_mode(False):  # it may be used for training later
        return _built(context_length, head_size, base, device)

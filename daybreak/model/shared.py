"""What the blocks of one forward pass share besides the residual stream that goes through them.

B batch, T tokens, C d_model, H heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from daybreak.model.kv_cache import KVCache


@dataclass
class Shared:
    """One per pass: `embed` makes it and every block is given it. What the model has no use for is None."""

    kv_cache: KVCache | None = None
    """What came before these tokens; the blocks add to it."""
    rotation: tuple[Tensor, Tensor] | None = None
    """The cosine and sine of every position's angles, for rotary positions."""
    embedding: Tensor | None = None
    """(B, T, C), for blocks that mix it into their input."""
    first_values: Tensor | None = None
    """(B, T, H, D) the first layer's, which it leaves here for the others to mix into their own."""

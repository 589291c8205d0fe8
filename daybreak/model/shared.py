"""What the blocks of one forward pass share besides the residual stream that goes through them.

B batch, T tokens, C d_model, H heads, D head size.
"""

from __future__ import annotations

from torch import Tensor

from daybreak.model.kv_cache import KVCache
from daybreak.model.rotary import Rotation


class Shared:
    """One per pass: `embed` makes it and every block is given it. What the model has no use for is None.

    No dataclass, as torch's FSDP copies such on their way into a module, and what one block leaves here is for the next.
    """

    def __init__(self, kv_cache: KVCache | None = None, rotation: Rotation | None = None, embedding: Tensor | None = None) -> None:
        self.kv_cache = kv_cache
        """What came before these tokens; the blocks add to it."""
        self.rotation = rotation
        """That of every token's position, where positions are rotary."""
        self.embedding = embedding
        """(B, T, C), for blocks that mix it into their input."""
        self.first_values: Tensor | None = None
        """(B, T, H, D) the first layer's, which it leaves here for the others to mix into their own."""
        self.passing: object = None
        """What blocks that are computed in another way leave here for the others of their kind."""

"""FlexAttention: a band inside one fused kernel on CUDA devices, which skips the blocks of keys that no query of a block sees.

It is compiled for each shape, so it is for the whole windows of training and scoring, not for prompts of any length.

B batch, T tokens now, S tokens so far, H heads, D head size.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

COMPILER = find_spec("triton") is not None
TILE = 128  # FlexAttention's own block of queries and of keys


def serves(queries: Tensor, keys: Tensor, dropout: float) -> bool:
    """Whether `attention` works here and is worth its compilation. It has no dropout, no fp64 and no heads of less than 16."""
    T, S, D = queries.shape[2], keys.shape[2], queries.shape[3]
    able = COMPILER and queries.is_cuda and dropout == 0.0 and queries.dtype != torch.float64 and D >= 16
    return able and T == S and T % TILE == 0


def attention(queries: Tensor, keys: Tensor, values: Tensor, dropout: float, band: int | None) -> Tensor:
    """A kernel as in `attention.py`, for what `serves` says."""
    assert dropout == 0.0
    from torch.nn.attention.flex_attention import flex_attention  # it imports the compiler, which is large

    T, S = queries.shape[2], keys.shape[2]
    if torch.compiler.is_compiling():
        out: Any = flex_attention(queries, keys, values, block_mask=block_mask(T, S, band, queries.device))
    else:
        out = _compiled()(queries, keys, values, block_mask=_kept(T, S, band, queries.device))
    return out  # type: ignore[no-any-return]


def block_mask(T: int, S: int, band: int | None, device: torch.device) -> BlockMask:
    """Which keys a query sees, and which tiles hold any of them."""
    from torch.nn.attention.flex_attention import create_block_mask

    width = S if band is None else band

    def near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = query + (S - T) - key
        return (distance >= 0) & (distance < width)

    return create_block_mask(near, None, None, T, S, device=str(device), BLOCK_SIZE=TILE)


@lru_cache(maxsize=8)
def _kept(T: int, S: int, band: int | None, device: torch.device) -> BlockMask:
    with torch.inference_mode(False):  # it may be used for training later
        return block_mask(T, S, band, device)


@lru_cache(maxsize=1)
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)

"""Blocks that take tokens through all of their parts in one call of `block.c`.

A block in a number format is a chain of some forty small operations around four products. In a model on a CPU whose products our own
kernels compute, `native_block` puts one call in the place of the chain; without a cache that it can work on in place, the chain is as it
was. Whoever hooks into a block's parts takes the model in fp32, which is never changed.

B batch, T tokens, N = B T, C d_model, K heads of keys and values, D head size.
"""

from __future__ import annotations

import ctypes
from typing import Any, final

import torch
from torch import Tensor, nn

from daybreak.inference.native.library import library
from daybreak.inference.native.panels import Product
from daybreak.inference.paged import PagedCache
from daybreak.model.config import GPTConfig
from daybreak.model.gpt import Block
from daybreak.model.kv_cache import KVCache, Layout
from daybreak.model.shared import Shared
from daybreak.model.shortcuts import EmbeddingShortcut, ValueResidual

MOST = 1024
"""Tokens in a call, which needs memory for what is between for all of them."""

_LARGEST_HEAD = 256
"""As in `block.c`."""

_ACTIVATIONS = ("gelu", "relu2", "swiglu")
"""As `block.c` numbers them."""


class _Block(ctypes.Structure):
    """`block` in block.c."""

    _fields_ = (
        *[(name, ctypes.c_void_p) for name in ("product", "qkv", "out", "up", "gate", "down")],
        *[(name, ctypes.c_void_p) for name in ("attention_gain", "attention_bias", "mlp_gain", "mlp_bias", "shortcut", "value_mix")],
        *[(name, ctypes.c_int64) for name in ("number", "width", "heads", "kv_heads", "head_size", "band")],
        ("norm_epsilon", ctypes.c_float),
        *[(name, ctypes.c_int32) for name in ("rms", "qk_norm", "activation")],
    )


class _Cache(ctypes.Structure):
    """`cache` in block.c."""

    _fields_ = (
        *[(name, ctypes.c_void_p) for name in ("keys", "values")],
        *[(name, ctypes.c_int64) for name in ("size", "layer_stride", "text_stride", "head_stride")],
        ("pages", ctypes.c_void_p),
        ("page_stride", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in ("texts", "positions")],
    )


class _Shared(ctypes.Structure):
    """`shared` in block.c."""

    _fields_ = (
        *[(name, ctypes.c_void_p) for name in ("embedding", "turn_own", "turn_other")],
        ("turns", ctypes.c_int64),
        ("first_values", ctypes.c_void_p),
    )


@final
class _Pass:
    """What all blocks of one forward pass are given, made by the first of them."""

    def __init__(self, layout: Layout, shared: Shared) -> None:
        own, other = shared.rotation or (None, None)
        self._held = (layout, shared.embedding, own, other, shared.first_values)  # what the addresses belong to
        self.cache = ctypes.byref(
            _Cache(
                layout.keys.data_ptr(),
                layout.values.data_ptr(),
                layout.keys.element_size(),
                layout.keys.stride(0),
                layout.text_stride,
                layout.head_stride,
                layout.pages.data_ptr(),
                layout.page_stride,
                layout.texts.data_ptr(),
                layout.positions.data_ptr(),
            )
        )
        turns = 0 if own is None else own.numel() // own.shape[-1]
        self.shared = ctypes.byref(
            _Shared(_address(shared.embedding), _address(own), _address(other), turns, _address(shared.first_values))
        )


@final
class NativeBlock(nn.Module):
    """A block that is one call, and without a cache what it was."""

    def __init__(self, block: Block, config: GPTConfig, products: dict[str, Product]) -> None:
        super().__init__()
        self._modules = block._modules  # the same parts under the same names
        self._block = (block,)  # in a tuple, as it is no part of its own
        self._values_shape = (config.kv_heads, config.head_size) if config.value_residual else None
        norms = (block.attention_norm, block.mlp_norm)
        vectors: list[Any] = [tensor for norm in norms for tensor in (norm.weight, getattr(norm, "bias", None))]
        vectors.append(block.shortcut.mix if isinstance(block.shortcut, EmbeddingShortcut) else None)
        mixing = block.attention.value_residual
        vectors.append(mixing.mix if isinstance(mixing, ValueResidual) else None)
        vectors = [None if vector is None else vector.detach() for vector in vectors]
        self._held = vectors, products  # what the addresses belong to
        layers = {name: ctypes.addressof(product.layer) for name, product in products.items()}
        kernels = library()
        self._call = kernels.block_forward
        self._struct = _Block(
            ctypes.cast(getattr(kernels, products["qkv"].name), ctypes.c_void_p).value,
            *(layers.get(name) for name in ("qkv", "out", "up", "gate", "down")),
            *map(_address, vectors),
            block.attention.layer,
            config.d_model,
            config.n_head,
            config.kv_heads,
            config.head_size,
            block.attention.band or 0,
            config.layer_norm_epsilon,
            config.norm != "layernorm",
            config.qk_norm,
            _ACTIVATIONS.index(config.activation),
        )
        self._where = ctypes.byref(self._struct)

    def forward(self, x: Tensor, shared: Shared) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        if shared.passing is None:
            shared.passing = self._began(x, shared)
        if not isinstance(shared.passing, _Pass):
            out: Tensor = self._block[0](x, shared)
            return out
        x = x.contiguous()
        y = torch.empty_like(x)
        count = x.shape[0] * x.shape[1]
        passing, threads = shared.passing, torch.get_num_threads()
        if self._call(self._where, passing.cache, passing.shared, x.data_ptr(), count, y.data_ptr(), threads):
            raise MemoryError(f"no memory to take {count} tokens through a block")
        return y

    def _began(self, x: Tensor, shared: Shared) -> object:
        (B, T, _), cache = x.shape, shared.kv_cache
        if B * T > MOST or x.dtype != torch.float32 or not isinstance(cache, KVCache | PagedCache):
            return "part by part"
        layout = cache.layout(B, T)
        if layout is None:
            return "part by part"
        if self._values_shape:
            first = shared.first_values
            shared.first_values = x.new_empty(B, T, *self._values_shape) if first is None else first.contiguous()
        return _Pass(layout, shared)


def native_block(block: Any, config: GPTConfig) -> nn.Module:
    """The block as a NativeBlock where each of its linear layers is a product of our kernels, and its sizes fill their vectors."""
    linears = {"qkv": block.attention.qkv, "out": block.attention.out, "up": block.mlp.up, "down": block.mlp.down}
    if config.activation == "swiglu":
        linears["gate"] = block.mlp.gate
    products = {name: getattr(linear, "product", None) for name, linear in linears.items()}
    found = {name: product for name, product in products.items() if isinstance(product, Product)}
    if len(found) < len(linears) or len({product.name for product in found.values()}) > 1:
        return block  # type: ignore[no-any-return]
    lanes = library().lanes()
    if config.d_model % lanes or config.head_size % lanes or config.mlp_width % lanes or config.head_size > _LARGEST_HEAD:
        return block  # type: ignore[no-any-return]
    return NativeBlock(block, config, found)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()

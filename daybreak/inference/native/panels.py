"""Weights laid out in panels, as the kernels in `linear.c` read them, and the linear layers that these compute.

K inputs, M outputs of a linear layer, P outputs in a panel, G inputs in a group of int4.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from daybreak.inference.native.library import Layer, library
from daybreak.inference.rounding import int4_groups, int8_rows

Linear = Callable[[Tensor], Tensor]
"""(..., K) fp32 -> (..., M) fp32."""


def fp16w(weight: Tensor, bias: Tensor | None) -> Linear:
    """Weights in fp16, activations in fp32."""
    panels = _panels(weight.half())  # (panels, P, K)
    return Product("fp16w_linear", weight, bias, panels.transpose(1, 2).contiguous())


def bf16(weight: Tensor, bias: Tensor | None) -> Linear:
    """Weights and activations in bf16, sums in fp32."""
    panels = _panels(F.pad(weight.bfloat16(), (0, weight.shape[1] % 2)))
    return Product("bf16_linear", weight, bias, _by_four_bytes(panels))  # pairs of inputs


def int8(weight: Tensor, bias: Tensor | None) -> Linear:
    """Weights in int8 with a scale for each output, activations in int8 with one for each row."""
    q, scales = int8_rows(weight)
    panels = _panels(F.pad(q, (0, -q.shape[1] % 4)).view(torch.uint8) ^ 128)  # the same as adding 128
    return Product("int8_linear", weight, bias, _by_four_bytes(panels), scales=_whole(scales))


def int4(weight: Tensor, bias: Tensor | None) -> Linear:
    """Weights in 4 bits with a scale and a middle for each group of inputs, activations in int8 with a scale for each group of a row."""
    q, scale, middle = int4_groups(weight)
    panels = _panels(q)
    eights = panels.view(*panels.shape[:2], -1, 2, 4)
    packed = eights[..., 0, :] | eights[..., 1, :] << 4  # (panels, P, K/8, 4)
    affine = torch.stack([_panels(each).transpose(1, 2) for each in (scale, middle)], dim=2)  # (panels, K/G, 2, P)
    return Product("int4_linear", weight, bias, _by_four_bytes(packed.flatten(2)), affine=affine.contiguous())


def _panels(rows: Tensor) -> Tensor:
    """(M, ...) -> (panels, P, ...), the last filled up with zeros."""
    P = library().panel_width()
    return F.pad(rows, (0, 0, 0, -len(rows) % P)).view(-1, P, rows.shape[1])


def _by_four_bytes(panels: Tensor) -> Tensor:
    """(panels, P, ...) -> (panels, ..., P) of four bytes each, as numbers of 32 bits, which are moved faster than as four."""
    return panels.view(torch.int32).transpose(1, 2).contiguous()


def _whole(numbers: Tensor) -> Tensor:
    """(M,) -> in fp32, filled up to whole panels."""
    return F.pad(numbers.float(), (0, -len(numbers) % library().panel_width()))


@final
class Product:
    """A linear layer by a function of linear.c. Raises ValueError for what is no row of its inputs on the CPU."""

    def __init__(
        self, name: str, of: Tensor, bias: Tensor | None, weight: Tensor, scales: Tensor | None = None, affine: Tensor | None = None
    ) -> None:
        """`of` (M, K) is the layer's weight, which lies in `weight`."""
        self.name = name
        self._outputs, self._inputs = of.shape
        self._held = (weight, scales, affine, None if bias is None else _whole(bias))  # what the addresses belong to
        addresses = (None if tensor is None else tensor.data_ptr() for tensor in self._held)
        self.layer = Layer(self._inputs, self._outputs, *addresses)
        self._where, self._call = ctypes.byref(self.layer), getattr(library(), name)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., M)."""
        if x.shape[-1] != self._inputs or x.device.type != "cpu":  # before memory is read that is not there
            raise ValueError(f"wanted (..., {self._inputs}) on the CPU, came {tuple(x.shape)} on {x.device}")
        x = x.float().contiguous()
        y = x.new_empty((*x.shape[:-1], self._outputs))
        if x.numel() and self._call(self._where, x.data_ptr(), x.numel() // self._inputs, y.data_ptr(), torch.get_num_threads()):
            raise MemoryError(f"no memory for {x.numel():,} activations")
        return y

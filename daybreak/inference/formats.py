"""Number formats for decoding: weights in fewer bytes, because a token takes as long as reading every weight once.

    gpt = in_format(gpt, "int8")              # a reshaping: (model) -> model; the linear layers and the head change, all else stays

Each format has a plain way, which says what it computes, and quicker ones: kernels of our own (`native/`), where there is a
C compiler, and torch's operations. Which of these exist, which are right and which is quickest differs from CPU to CPU, so that a short
trial on this machine picks one for each shape (`trials.py`). Weights are rounded to the nearest (`rounding.py`); better quantizers come
through the same seam.

K inputs, M outputs of a linear layer, G inputs in a group that shares a scale.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daybreak.inference.native import panels
from daybreak.inference.native.blocks import NativeBlock, native_block
from daybreak.inference.native.panels import Linear
from daybreak.inference.rounding import GROUP, TINY, int4_groups, int8_rows
from daybreak.model.gpt import GPT

Pack = Callable[[Tensor, Tensor | None], Linear]
"""(weight (M, K), bias (M,) or none) -> the layer, which holds the weight in its own form."""


@dataclass(frozen=True)
class Format:
    """A number format: what it computes, plainly, and the quicker ways to compute the same."""

    plain: Pack
    quick: Mapping[str, Pack]
    error: float
    """How far a quick way may be from the plain one, as a share of the result's norm: rounding of sums, and what a way rounds besides."""
    cache: torch.dtype = torch.float16
    """What whole blocks of our own keep keys and values in. Where activations are rounded more coarsely, this loses nothing."""


# --- bf16: 8 bits of mantissa for weights and activations -------------------------------------------------------------------------


def bf16_plain(weight: Tensor, bias: Tensor | None) -> Linear:
    """Rounds both, and multiplies and sums in fp32, where products of two such numbers are exact."""
    weight16 = weight.bfloat16()
    return lambda x: F.linear(x.bfloat16().float(), weight16.float(), bias)


def bf16_torch(weight: Tensor, bias: Tensor | None) -> Linear:
    """By oneDNN, which rounds the result, too."""
    weight16, bias16 = weight.bfloat16(), None if bias is None else bias.bfloat16()
    return lambda x: F.linear(x.bfloat16(), weight16, bias16).float()


# --- fp16w: weights in half precision, activations in fp32 ------------------------------------------------------------------------


def fp16w_plain(weight: Tensor, bias: Tensor | None) -> Linear:
    """Widens the weight for every product."""
    half = weight.half()
    return lambda x: F.linear(x, half.float(), bias)


def fp16w_fbgemm(weight: Tensor, bias: Tensor | None) -> Linear:
    """FBGEMM widens it in registers."""
    packed = torch.ops.quantized.linear_prepack_fp16(weight.float().contiguous(), bias)
    product = torch.ops.quantized.linear_dynamic_fp16.default._op  # without the look for what a compiler traces, at each call
    return lambda x: product(x, packed)


# --- int8: weights by output, activations by row ----------------------------------------------------------------------------------
#
# torch's dynamic operations take one scale for all rows of a batch, so that a text would depend on its neighbours. Here each row is
# divided by its own largest magnitude first and the scale is always 1/127; sums of integers are exact, so that every way gives the same.


def _by_row(product: Linear, bias: Tensor | None) -> Linear:
    """A product of activations between -1 and 1, for any."""

    def linear(x: Tensor) -> Tensor:
        scale = x.abs().amax(dim=-1, keepdim=True).clamp_min_(TINY)
        y = product(x / scale)
        return y.mul_(scale) if bias is None else torch.addcmul(bias, y, scale)

    return linear


def int8_plain(weight: Tensor, bias: Tensor | None) -> Linear:
    """Integers, held in fp32, multiplied as such."""
    q, scale = int8_rows(weight)
    return _by_row(lambda x: F.linear((x * 127).round_(), q.to(x.dtype)) * (scale / 127), bias)


def int8_fbgemm(weight: Tensor, bias: Tensor | None) -> Linear:
    """FBGEMM, which takes fp32 and gives fp32 in one call: the quickest for one row."""
    q, scale = int8_rows(weight)
    zeros = torch.zeros(len(scale), dtype=torch.long)
    with warnings.catch_warnings():  # such tensors are to go from torch; the trial then finds that this way is gone
        warnings.simplefilter("ignore")
        quantized = torch._make_per_channel_quantized_tensor(q, scale.double(), zeros, 0)
        packed = torch.ops.quantized.linear_prepack(quantized, bias)
    product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default._op

    def linear(x: Tensor) -> Tensor:
        sizes = x.abs()
        if x.numel() == x.shape[-1]:  # one row, as when one text is decoded: four calls in all
            largest = max(float(sizes.max()), TINY)
            if largest < math.inf:
                y: Tensor = product(x, largest / 127, 128, packed)
                return y
        largest_of_row = sizes.amax(dim=-1, keepdim=True).clamp_min_(TINY)
        y = product(x / largest_of_row, 1 / 127, 128, packed)
        return y.mul_(largest_of_row) if bias is None else torch.lerp(bias, y, largest_of_row)  # the bias is not of that size

    return linear


def int8_onednn(weight: Tensor, bias: Tensor | None) -> Linear:
    """oneDNN, from plain integer tensors. Unsigned activations: signed ones fall to a reference a hundred times slower."""
    q, scale = int8_rows(weight)
    zeros, packed = torch.zeros(len(scale), dtype=torch.long), torch.ops.onednn.qlinear_prepack(q, None)
    product = torch.ops.onednn.qlinear_pointwise.default._op

    def linear(x: Tensor) -> Tensor:
        unsigned = (x * 127).round_().add_(128).to(torch.uint8)
        out: Tensor = product(unsigned, 1 / 127, 128, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], "")
        return out

    return _by_row(linear, bias)


# --- int4: weights by group of 32 inputs, activations in int8 by such a group -----------------------------------------------------


def int4_plain(weight: Tensor, bias: Tensor | None) -> Linear:
    """Rounds the activations, and widens the weight for every product."""
    q, scale, middle = int4_groups(weight)

    def linear(x: Tensor) -> Tensor:
        groups = x.view(*x.shape[:-1], -1, GROUP)
        step = groups.abs().amax(dim=-1, keepdim=True).clamp_min_(TINY) / 127
        wide = (q.view(*scale.shape, GROUP).float() - 8) * scale.float()[..., None] + middle.float()[..., None]
        return F.linear(((groups / step).round_() * step).view(x.shape), wide.view(q.shape), bias)

    return linear


def int4_aten(weight: Tensor, bias: Tensor | None) -> Linear:
    """ATen's own kernel, with activations in bf16, which is finer. With such in fp32 it falls to a reference thirty times slower."""
    q, scale, middle = int4_groups(F.pad(weight, (0, 0, 0, -len(weight) % 64)))  # it takes outputs by 64
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.int(), 1)
    both = torch.stack([scale.t(), middle.t()], dim=-1).contiguous()  # (K/G, M, 2)
    product, M = torch.ops.aten._weight_int4pack_mm_for_cpu.default._op, len(weight)

    def linear(x: Tensor) -> Tensor:
        rows = x.bfloat16().view(-1, x.shape[-1])
        y: Tensor = product(rows, packed, GROUP, both)[:, :M]
        return (y.float() if bias is None else y + bias).view(*x.shape[:-1], M)

    return linear


FORMATS: dict[str, Format] = {
    "bf16": Format(bf16_plain, {"native": panels.bf16, "torch": bf16_torch}, 1e-2),
    "fp16w": Format(fp16w_plain, {"native": panels.fp16w, "fbgemm": fp16w_fbgemm}, 1e-5, torch.float32),
    "int8": Format(int8_plain, {"native": panels.int8, "fbgemm": int8_fbgemm, "onednn": int8_onednn}, 1e-3),
    "int4": Format(int4_plain, {"native": panels.int4, "aten": int4_aten}, 1e-2),
}
"""By the name that --dtype has; fp32 is the model as it is."""


class QuantLinear(nn.Module):
    """A linear layer in a number format. What it holds is the format's own, and is no part of a state to save."""

    def __init__(self, weight: Tensor, bias: Tensor | None, pack: Pack) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.product = pack(weight.detach(), None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., M)."""
        return self.product(x)


Choice = Callable[[str, int, int], Pack]
"""(format, M, K) -> how such layers are computed on this machine."""


def in_format(gpt: GPT, name: str, choose: Choice | None = None) -> GPT:
    """The model with its linear layers and its head in a format; norms, embeddings and attention stay in fp32.

    The head is packed once. `token_embedding` keeps the rows that it has: where these are a view of a file, only those of tokens that
    occur are ever in memory. Without `choose` every layer is computed plainly. The given model is not changed.
    """
    choose = choose or (lambda name, outputs, inputs: FORMATS[name].plain)
    linears = [module for module in gpt.modules() if isinstance(module, nn.Linear)]
    matrices: list[tuple[Tensor, Tensor | None]] = [(linear.weight, linear.bias) for linear in linears]
    if gpt.head is None:
        matrices.append((gpt.token_embedding.weight, None))
    ways = [choose(name, *weight.shape) for weight, _ in matrices]  # trials want the machine for themselves
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # FBGEMM packs in one thread, a second for 60M weights of fp16w
        packed = list(pool.map(QuantLinear, *zip(*matrices, strict=True), ways))
    changed = _changed(gpt, dict(zip(linears, packed, strict=False)))
    assert isinstance(changed, GPT)
    if gpt.head is None:
        changed.head = packed[-1]  # type: ignore[assignment]  # a layer is a layer
    changed.blocks = nn.ModuleList(native_block(block, gpt.config) for block in changed.blocks)
    if all(isinstance(block, NativeBlock) for block in changed.blocks):  # torch's operations would widen the whole cache at every token
        changed.narrow_cache = FORMATS[name].cache
    return changed


def _changed(module: nn.Module, instead: Mapping[nn.Module, nn.Module]) -> nn.Module:
    if module in instead:
        return instead[module]
    changed = copy.copy(module)
    changed._modules = {path: None if part is None else _changed(part, instead) for path, part in module._modules.items()}
    return changed

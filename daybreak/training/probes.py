"""What to look at while a model learns: the length of each layer's gradient, and how large attention's logits grow.

Logits that grow without bound are the first sign of the blow-ups that low precision meets (Dehghani et al. 2023, "Scaling Vision
Transformers to 22 Billion Parameters", section 3.1; Wortsman et al. 2023, "Small-scale proxies for large-scale Transformer training
instabilities"): they show thousands of steps before the loss does.

    probe = Probe(model)
    for step in train(model, ..., probe=probe):
        if figures := probe.take(): ...               # of the step just done, if it was watched
        probe.watch((step.number + 1) % 100 == 0)     # whether to look at the next

Without a watched step it costs a function call per micro-batch. Where blocks are compiled, attention runs as it is written in a watched
step, which is rounded a little otherwise. B batch, H heads, T tokens, D head size, S positions of keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from daybreak.model.attention import Attention, Kernel

_QUERIES = 256
"""How many queries' logits are computed at once."""


class Probe:
    """Attaches to the loop's probe seam and to the model's attention kernels, from outside."""

    def __init__(self, model: nn.Module, sequences: int = 1) -> None:
        """Attention's logits are computed again for the first `sequences` of each micro-batch."""
        self._sequences = sequences
        self._attention = [module for module in model.modules() if isinstance(module, Attention)]
        self._kernels = [module.kernel for module in self._attention]
        # Made once: a compiled block that meets a new one each time would be compiled each time.
        apart: Callable[[Kernel], Kernel] = torch.compiler.disable
        self._watching = [apart(partial(self._watched, layer)) for layer in range(len(self._attention))]
        self._watches = False
        self._largest: list[Tensor] = []
        self._gradients: dict[str, Tensor] = {}

    def __call__(self, model: nn.Module) -> None:
        """After each micro-batch's backward pass: the gradients gathered so far, of which the last are the step's."""
        if self._watches:
            self._gradients = {name: gradient_norm(parameters) for name, parameters in layers(model)}

    def watch(self, wanted: bool = True) -> None:
        """Whether to look at the next step."""
        self._watches, self._gradients = wanted, {}
        self._largest = [torch.full((), -math.inf, device=module.out.weight.device) for module in self._attention if wanted]
        for module, kernel in zip(self._attention, self._watching if wanted else self._kernels, strict=True):
            module.kernel = kernel

    def take(self) -> dict[str, dict[str, float]]:
        """The figures of the watched step, by kind and layer; {} if none was. Waits for the device, and stops watching.

        `gradient_norm` is before clipping, of this process's share of the batch where processes hold whole copies, and times the loss scale
        in fp16; `attention_logit` is the largest q·k / sqrt(D) that a query of this process saw.
        """
        if not self._gradients:
            return {}
        figures = {
            "gradient_norm": {name: float(norm) for name, norm in self._gradients.items()},
            "attention_logit": {f"blocks.{layer}": float(largest) for layer, largest in enumerate(self._largest)},
        }
        self.watch(False)
        return figures

    def _watched(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, dropout: float, band: int | None = None) -> Tensor:
        with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
            seen = largest_logit(queries[: self._sequences], keys[: self._sequences], band)
            self._largest[layer] = torch.maximum(self._largest[layer], seen)
        return self._kernels[layer](queries, keys, values, dropout, band)


def largest_logit(queries: Tensor, keys: Tensor, band: int | None = None) -> Tensor:
    """() the largest q·k / sqrt(D) over what each query sees, in fp32: (B, H, T, D) and (B, H, S, D), the last query at position S - 1."""
    T, S = queries.shape[2], keys.shape[2]
    largest = torch.full((), -math.inf, device=queries.device)
    positions = torch.arange(S, device=queries.device)
    for first in range(0, T, _QUERIES):
        some = queries[:, :, first : first + _QUERIES].float() / math.sqrt(queries.shape[-1])
        distance = positions[S - T + first : S - T + first + some.shape[2], None] - positions  # (queries, S)
        seen = (distance >= 0) & (distance < (S if band is None else band))
        logits = (some @ keys.float().transpose(-2, -1)).masked_fill(~seen, -math.inf)
        largest = torch.maximum(largest, logits.amax())
    return largest


def layers(model: nn.Module) -> Iterable[tuple[str, list[nn.Parameter]]]:
    """The parameters by layer: each block is one, and each of the model's other parts."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        found.setdefault(".".join(parts[:2]) if parts[0] == "blocks" else parts[0], []).append(parameter)
    return found.items()


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """() the common length of the parameters' gradients, those that are divided among processes taken whole."""
    from torch.distributed.tensor import DTensor

    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm

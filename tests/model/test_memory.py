"""What training holds: each formula beside the bytes that torch really keeps, and the peak of a whole step."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from daybreak.data.batches import Batch
from daybreak.model import memory
from daybreak.model.attention import KERNELS
from daybreak.model.config import SIZES, GPTConfig
from daybreak.model.flops import parameter_count
from daybreak.model.gpt import GPT
from daybreak.model.init import build
from daybreak.training.objectives import cross_entropy
from daybreak.training.optimizers import make_optimizer
from daybreak.training.precision import MixedPrecision

SHAPE = GPTConfig(vocab_size=500, context_length=48, n_layer=3, n_head=4, d_model=64)
B = 3


def batch(config: GPTConfig) -> Batch:
    ids = torch.randint(0, config.tokens, (B, config.context_length + 1))
    return Batch(ids[:, :-1], ids[:, 1:])


def loss_of(gpt: GPT, given: Batch, precision: str) -> torch.Tensor:
    with MixedPrecision(precision, torch.device("cpu")).autocast():
        return cross_entropy(gpt, given).sum()


def kept_for_backward(gpt: GPT, precision: str) -> int:
    """The bytes of all storages that autograd saves in a forward pass and that are no parameters."""
    seen = {weight.untyped_storage().data_ptr(): 0 for weight in gpt.parameters()}
    alive = []  # or a freed one's address would come again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        seen.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(gpt, batch(gpt.config), precision)
    return sum(seen.values())


class Peak(TorchDispatchMode):
    """The most bytes that tensors made within have together at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor) and id(storage := leaf.untyped_storage()) not in given and id(storage) not in self._alive:
                self._alive[id(storage)] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, id(storage))
        self.most = max(self.most, self.now)
        return made

    def _free(self, key: int) -> None:
        self.now -= self._alive.pop(key, 0)


def test_states_are_exactly_what_a_step_of_adamw_leaves() -> None:
    gpt = GPT(SHAPE)
    optimizer = make_optimizer("adamw", gpt, weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-8)
    loss_of(gpt, batch(SHAPE), "fp32").backward()
    optimizer.step()
    held = [tensor for weight in gpt.parameters() for tensor in (weight, weight.grad, *optimizer.state[weight].values())]
    assert sum(tensor.nbytes for tensor in held if tensor.dim()) == memory.state_bytes(SHAPE) == 16 * parameter_count(SHAPE, padded=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kernel", ["fused", "plain"])
@pytest.mark.parametrize("shape", [SHAPE, GPTConfig(vocab_size=64, context_length=96, n_layer=2, n_head=2, d_model=32)])
def test_activations_are_what_autograd_keeps(shape: GPTConfig, kernel: str, precision: str) -> None:
    wide = 4 if precision == "fp32" else 2
    counted = memory.activation_bytes(shape, B, wide, square=kernel == "plain") + memory.cast_bytes(shape, wide)
    counted += 4 * B * shape.context_length * shape.tokens  # the logarithms of the probabilities, a third of logits_bytes
    assert counted == pytest.approx(kept_for_backward(GPT(shape, KERNELS[kernel]), precision), rel=0.01)


def test_with_recomputation_each_block_keeps_its_input() -> None:
    gpt = GPT(SHAPE, KERNELS["fused"])
    straight = kept_for_backward(gpt, "fp32")
    for block in gpt.blocks:
        forward = block.forward
        block.forward = lambda *args, forward=forward: checkpoint(forward, *args, use_reentrant=True)
    one, all_of_them = (memory.activation_bytes(SHAPE, B, 4, recompute=recompute) for recompute in (True, False))
    computed_again = memory.block_bytes(SHAPE, B, 4)
    assert straight - kept_for_backward(gpt, "fp32") == pytest.approx(all_of_them - (one - computed_again), rel=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("vocab_size", "softcap"), [(64, None), (512, None), (4096, None), (512, 15.0), (4096, 15.0)])
def test_the_peak_of_a_step_is_what_is_counted(vocab_size: int, softcap: float | None, precision: str) -> None:
    """Gradients come one by one while activations go, so at the loss, where the peak stands, there are none yet."""
    shape = GPTConfig(vocab_size=vocab_size, context_length=48, n_layer=3, n_head=4, d_model=64, logit_softcap=softcap)
    gpt, given = GPT(shape, KERNELS["fused"]), batch(shape)
    wide = 4 if precision == "fp32" else 2
    with Peak() as peak:
        loss_of(gpt, given, precision).backward()
    counted = memory.activation_bytes(shape, B, wide) + memory.cast_bytes(shape, wide) + memory.logits_bytes(shape, B)
    assert counted == pytest.approx(peak.most, rel=0.05)


OTHERS = [
    {"position": "rotary"},
    {"qk_norm": True},
    {"position": "rotary", "qk_norm": True},
    {"n_kv_head": 2},
    {"n_kv_head": 1, "position": "rotary"},
    {"n_kv_head": 2, "qk_norm": True},
    {"activation": "relu2"},
    {"activation": "swiglu"},
    {"norm": "rmsnorm", "bias": False},
    {"embedding_norm": True},
    {"embedding_shortcut": True},
    {"value_residual": True},
    {"value_residual": True, "position": "rotary"},
    {"value_residual": True, "position": "rotary", "n_kv_head": 2},
    {"tied_head": False},
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("changes", OTHERS, ids=lambda changes: ",".join(changes))
def test_other_parts_keep_what_is_counted(changes: dict[str, object], precision: str) -> None:
    shape = replace(SHAPE, **changes)
    wide = 4 if precision == "fp32" else 2
    counted = memory.activation_bytes(shape, B, wide) + memory.cast_bytes(shape, wide) + 4 * B * shape.context_length * shape.tokens
    assert counted == pytest.approx(kept_for_backward(build(shape, 0, kernel=KERNELS["fused"]), precision), rel=0.01)


def test_golden_values() -> None:
    small, large = SIZES["gpt2"]["124m"], SIZES["gpt3"]["175b"]
    assert memory.state_bytes(small) == 16 * 124_475_904
    assert memory.block_bytes(small, 1) == 1024 * (36 * 768 + 16 + 4 * 12)
    assert memory.logits_bytes(small, 1) == 12 * 1024 * 50304
    assert memory.logits_bytes(small, 4, 2, chunk=1024) == (2 * 4096 + 8 * 1024) * 50304
    assert memory.logits_bytes(small, 4, 4, chunk=1024) == 12 * 1024 * 50304
    assert memory.logits_bytes(small, 4, 4, chunk=10_000) == memory.logits_bytes(small, 4)
    assert memory.cast_bytes(small, 4) == 0
    assert memory.gathered_bytes(large) == pytest.approx(6 * 2.455e9 + 2 * 1.812e9, rel=1e-3)


@given(
    layers=st.integers(1, 8),
    heads=st.integers(1, 8),
    head_size=st.integers(1, 64),
    context=st.integers(1, 512),
    sequences=st.integers(1, 64),
    wide=st.sampled_from([2, 4]),
)
def test_more_of_anything_takes_more(layers: int, heads: int, head_size: int, context: int, sequences: int, wide: int) -> None:
    shape = GPTConfig(vocab_size=100, context_length=context, n_layer=layers, n_head=heads, d_model=heads * head_size)
    dropping = GPTConfig(vocab_size=100, context_length=context, n_layer=layers, n_head=heads, d_model=heads * head_size, dropout=0.1)
    one = memory.activation_bytes(shape, sequences, wide)
    assert memory.activation_bytes(shape, 2 * sequences, wide) == 2 * one
    assert memory.activation_bytes(dropping, sequences, wide) > one
    assert memory.activation_bytes(shape, sequences, wide, square=True) >= one - 4 * heads * layers * sequences * context
    assert memory.activation_bytes(shape, sequences, 4) >= one >= memory.activation_bytes(shape, sequences, 2)
    assert memory.activation_bytes(shape, sequences, wide, recompute=True) <= one + 4 * layers * sequences * context * shape.d_model
    assert memory.state_bytes(shape) % 16 == 0

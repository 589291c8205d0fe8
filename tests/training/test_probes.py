"""Probes: what they say is what a plain computation says, and watching changes nothing."""

import math

import pytest
import torch
from worlds import in_worlds

from daybreak.data.batches import Batch
from daybreak.model.attention import Attention, plain
from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.training.loop import train
from daybreak.training.parallel import Alone, across, recompute_blocks
from daybreak.training.precision import MixedPrecision
from daybreak.training.probes import Probe, largest_logit

IDS = torch.randint(64, (4, 9), generator=torch.Generator().manual_seed(0))


class Steps:
    """Two micro-batches of two sequences."""

    def __getitem__(self, step):
        return [Batch(part[:, :-1], part[:, 1:]) for part in torch.split(IDS.roll(step, 0), 2)]

    def tokens_after(self, step):
        return 32 * (step + 1)


def model():
    return build(GPTConfig(vocab_size=64, context_length=8, n_layer=2, n_head=2, d_model=16, init_std=0.5), 0)


def adamw(weights):
    return torch.optim.AdamW(weights.parameters(), lr=0.0, fused=True)


def run(weights, probe, watched, steps=4, **more):
    """The losses, and what the probe says after each step."""
    losses, told = [], []
    probe.watch(0 in watched)
    for step in train(weights, adamw(weights), Steps(), lambda tokens: 1e-3, steps=steps, probe=probe, **more):
        losses.append(float(step.loss))
        told.append((probe.take(), float(step.grad_norm)))
        probe.watch(step.number + 1 in watched)
    return losses, told


def test_watched_steps_are_told_and_nothing_else_changes():
    weights = model()
    kernels = [block.attention.kernel for block in weights.blocks]
    probe = Probe(weights)
    losses, told = run(weights, probe, {0, 2})
    assert [bool(figures) for figures, _ in told] == [True, False, True, False]
    assert [block.attention.kernel for block in weights.blocks] == kernels
    unwatched = model()
    assert losses == run(unwatched, Probe(unwatched), set())[0]
    assert all(map(torch.equal, weights.parameters(), unwatched.parameters()))


@pytest.mark.parametrize("recompute", [False, True])
def test_the_layers_norms_make_up_the_whole(recompute):
    weights = model()
    if recompute:
        recompute_blocks(weights)
    _, told = run(weights, Probe(weights), {1})
    figures, whole = told[1]
    norms = figures["gradient_norm"]
    assert list(norms) == ["token_embedding", "position_embedding", "blocks.0", "blocks.1", "norm"]
    assert math.sqrt(sum(norm * norm for norm in norms.values())) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_largest_logit_is_that_of_the_first_sequences(precision):
    weights = model()
    seen = {}

    def remember(layer):
        def hook(module, inputs, out):
            T, C = out.shape[1], out.shape[2] // 3
            q, k, _ = out.detach()[:1].float().view(1, T, 3, 2, C // 2).permute(2, 0, 3, 1, 4)
            logits = (q[..., :, None, :] * k[..., None, :, :]).sum(-1) / math.sqrt(C // 2)
            seen[layer] = max(seen.get(layer, -math.inf), float(logits.masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf).max()))

        return hook

    for layer, block in enumerate(weights.blocks):
        block.attention.qkv.register_forward_hook(remember(layer))
    _, told = run(weights, Probe(weights), {0}, steps=1, precision=MixedPrecision(precision, torch.device("cpu")))
    assert told[0][0]["attention_logit"] == pytest.approx({f"blocks.{layer}": value for layer, value in seen.items()}, rel=1e-5)


@pytest.mark.parametrize(("T", "S", "band"), [(1, 1, None), (7, 7, None), (300, 300, None), (300, 300, 5), (3, 9, None), (3, 9, 4)])
def test_only_what_a_query_sees_counts(T, S, band):
    draw = torch.Generator().manual_seed(T + S)
    queries, keys = torch.randn(2, 3, T, 4, generator=draw), torch.randn(2, 3, S, 4, generator=draw)
    largest = -math.inf
    for t in range(T):
        at = S - T + t
        first = 0 if band is None else max(0, at - band + 1)
        largest = max(largest, float((queries[:, :, t, None] * keys[:, :, first : at + 1]).sum(-1).max()) / 2)
    assert float(largest_logit(queries, keys, band)) == pytest.approx(largest, rel=1e-5)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning"
)  # the compiler looks at it, and hides the warning too late
def test_a_compiled_block_is_watched_too():
    weights = model()
    for block in weights.blocks:
        block.compile(backend="aot_eager")
    _, told = run(weights, Probe(weights), {1})
    plainly = model()
    _, expected = run(plainly, Probe(plainly), {1})
    # Compiled for a CPU, GELU is computed in another form, and a step lies between.
    assert told[1][0]["attention_logit"] == pytest.approx(expected[1][0]["attention_logit"], rel=1e-4)
    assert all(isinstance(block.attention, Attention) and block.attention.kernel is not plain for block in weights.blocks)


def watched(world, layout):
    ways = across(layout, world, torch.device("cpu")) if world.size > 1 else Alone()
    weights = model()
    ways.place(weights)
    _, told = run(weights, Probe(weights), {0}, steps=1, across=ways)
    return told[0][0]["gradient_norm"]


def test_shards_tell_the_norm_of_the_whole_gradient():
    """Both processes train on the same batch here, so the whole gradient is that of one."""
    weights = model()
    _, told = run(weights, Probe(weights), {0}, steps=1)
    for norms in in_worlds(2, watched, "fsdp"):
        assert norms == pytest.approx(told[0][0]["gradient_norm"], rel=1e-4)

"""What is shared between blocks: written out by hand for a whole model, beside the model."""

import dataclasses

import pytest
import torch
from model.test_combinations import TINY, alive, ids
from torch.nn import functional as F

from daybreak.model.init import build


def by_hand(model, tokens, shortcut, residual):
    """The blocks with the shortcuts as formulas; the rest are the model's own parts."""
    x = start = model.token_embedding(tokens) + model.position_embedding.weight[: tokens.shape[1]]
    B, T, C = x.shape
    first = None
    for layer, block in enumerate(model.blocks):
        if shortcut:
            mix = block.shortcut.mix
            x = mix[0] * x + mix[1] * start
        normed, attention = block.attention_norm(x), block.attention
        queries, keys, values = (part.view(B, T, -1, 4).transpose(1, 2) for part in attention.qkv(normed).split(C, dim=-1))
        if residual and layer == 0:
            first = values
        elif residual:
            mix = attention.value_residual.mix
            values = (1 - mix) * values + mix * first
        gathered = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + attention.out(gathered.transpose(1, 2).reshape(B, T, C))
        x = x + block.mlp(block.mlp_norm(x))
    return F.linear(model.norm(x), model.token_embedding.weight)[..., :50]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shortcut", [False, True])
def test_it_is_the_formula(shortcut, residual):
    model, tokens = alive(dataclasses.replace(TINY, embedding_shortcut=shortcut, value_residual=residual)), ids(2, 12)
    ours, reference = model(tokens), by_hand(model, tokens, shortcut, residual)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)
    ours, reference = (torch.autograd.grad(out.square().mean(), list(model.parameters())) for out in (ours, reference))
    for one, other in zip(ours, reference, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_they_begin_as_the_table_says():
    model = build(dataclasses.replace(TINY, embedding_shortcut=True, value_residual=True), 0)
    mixes = {name: parameter.tolist() for name, parameter in model.named_parameters() if name.endswith("mix")}
    assert mixes == {f"blocks.{layer}.shortcut.mix": [1.0, 0.0] for layer in range(3)} | {
        f"blocks.{layer}.attention.value_residual.mix": [0.5] for layer in (1, 2)
    }
    assert all(parameter.dim() >= 1 for parameter in model.parameters())


def test_the_embedding_s_shortcut_begins_as_none():
    one, other = (build(dataclasses.replace(TINY, embedding_shortcut=shortcut), 1)(ids(2, 12)) for shortcut in (False, True))
    assert torch.equal(one, other)

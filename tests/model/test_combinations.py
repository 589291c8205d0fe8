"""Any combination of the model's settings: the counts are those of the real parameters, it learns, and a cache changes nothing."""

import dataclasses
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from daybreak.model.attention import KERNELS
from daybreak.model.config import GPTConfig
from daybreak.model.flops import parameter_count
from daybreak.model.gpt import GPT
from daybreak.model.init import build
from daybreak.model.kv_cache import KVCache

TINY = GPTConfig(vocab_size=50, context_length=12, n_layer=3, n_head=4, d_model=16, init_std=0.3, head_init_std=0.3)
EACH = {
    "n_kv_head": 2,
    "position": "rotary",
    "qk_norm": True,
    "value_residual": True,
    "activation": "swiglu",
    "norm": "rmsnorm",
    "bias": False,
    "embedding_norm": True,
    "embedding_shortcut": True,
    "tied_head": False,
    "logit_softcap": 3.0,
}
ALL = dataclasses.replace(TINY, **EACH, attention_pattern=("banded", "dense"), attention_band=4)


def ids(B, T, seed=0):
    return torch.randint(TINY.tokens, (B, T), generator=torch.Generator().manual_seed(seed))


def alive(config, kernel="plain"):
    """A model whose biases, gains and mixes are not what they begin with, so that each takes part; two differ in what only one has."""
    model = build(config, 1, kernel=KERNELS[kernel])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    return model.eval()


shapes = st.builds(
    dataclasses.replace,
    st.just(TINY),
    n_kv_head=st.sampled_from([None, 1, 2, 4]),
    position=st.sampled_from(["learned", "rotary"]),
    rotary_base=st.sampled_from([10.0, 10_000.0]),
    qk_norm=st.booleans(),
    value_residual=st.booleans(),
    activation=st.sampled_from(["gelu", "relu2", "swiglu"]),
    norm=st.sampled_from(["layernorm", "rmsnorm", "rmsnorm-no-gain"]),
    bias=st.booleans(),
    embedding_norm=st.booleans(),
    embedding_shortcut=st.booleans(),
    tied_head=st.booleans(),
    logit_softcap=st.sampled_from([None, 3.0]),
    residual_scaling=st.sampled_from(["paper", "zero"]),
    attention_pattern=st.sampled_from([("dense",), ("banded", "dense")]),
    attention_band=st.integers(1, 12),
)


@settings(max_examples=25, deadline=None)
@given(shape=shapes, kernel=st.sampled_from(["auto", "fused", "plain"]))
def test_any_combination_counts_learns_and_decodes(shape, kernel):
    assert list(shape.problems()) == []
    model = alive(shape, kernel)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == parameter_count(shape, padded=True)
    assert counted - parameter_count(shape) == (64 - 50) * 16 * (1 if shape.tied_head else 2)

    tokens = ids(2, 12)
    losses = []
    for _ in range(2):
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        losses.append(float(loss.detach()))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        length = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.01 / length * gradient
    assert losses[1] < losses[0]

    cache, whole, at = KVCache(shape, batch=2), model(tokens), 0
    for step in (5, 1, 1, 3, 2):
        piece = model(tokens[:, at : at + step], cache)
        torch.testing.assert_close(piece, whole[:, at : at + step], rtol=1e-4, atol=1e-4)
        at += step


@pytest.mark.parametrize("name", EACH)
def test_every_setting_changes_what_is_computed(name):
    one, other = (alive(dataclasses.replace(TINY, **changes))(ids(2, 12)) for changes in ({}, {name: EACH[name]}))
    assert not torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_with_all_of_them_the_future_never_changes_the_past(kernel):
    model, tokens = alive(ALL, kernel), ids(3, 12)
    other = tokens.clone()
    other[:, 5:] = (other[:, 5:] + 1) % TINY.tokens
    before, after = model(tokens), model(other)
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-5)
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-3)
    torch.testing.assert_close(before, alive(ALL, "plain")(tokens), rtol=1e-4, atol=1e-4)


def test_with_rotary_positions_only_distances_count_also_where_every_row_has_its_own():
    class Later(KVCache):
        """As if each row had read something before, which is not to be seen."""

        def positions(self, count):
            return super().positions(count) + torch.tensor([[0], [3]])

    shape, tokens = dataclasses.replace(ALL, context_length=16), ids(2, 12)
    model = alive(shape)
    later = torch.cat([model(piece, cache) for cache in [Later(shape, batch=2)] for piece in tokens.split([5, 1, 6], dim=1)], dim=1)
    torch.testing.assert_close(later, model(tokens), rtol=1e-4, atol=1e-4)
    learned = dataclasses.replace(shape, position="learned")
    assert not torch.allclose(alive(learned)(tokens, Later(learned, batch=2))[1], alive(learned)(tokens)[1], atol=1e-2)


def test_the_cache_keeps_only_the_heads_that_there_are():
    few, many = (KVCache(dataclasses.replace(TINY, n_kv_head=heads))._keys.numel() for heads in (1, None))
    assert many == 4 * few


@pytest.mark.parametrize("changes", [{}, {"n_kv_head": 12}, EACH, {"activation": "relu2", "bias": False}, {"value_residual": True}])
def test_counts_at_the_size_of_gpt2(changes):
    config = GPTConfig(**{**changes, **({"n_kv_head": 4} if changes is EACH else {})})
    with torch.device("meta"):
        model = GPT(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameter_count(config, padded=True)

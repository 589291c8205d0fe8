"""The model: its three steps, its formula, what each position sees, dropout, and the rows that pad the vocabulary."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from daybreak.model.attention import KERNELS, plain
from daybreak.model.config import GPTConfig
from daybreak.model.flops import flops_per_token
from daybreak.model.init import build
from daybreak.model.kv_cache import KVCache

TINY = GPTConfig(vocab_size=50, context_length=12, n_layer=2, n_head=2, d_model=16)


def tiny(kernel="auto", dtype=torch.float32, **changes):
    config = dataclasses.replace(TINY, init_std=0.3, **changes)
    return build(config, seed=1, kernel=KERNELS[kernel]).to(dtype).eval()


def ids(B, T, seed=0):
    return torch.randint(TINY.tokens, (B, T), generator=torch.Generator().manual_seed(seed))


def test_flops_are_those_that_torch_counts():
    config = GPTConfig(vocab_size=512, context_length=64, n_layer=3, n_head=4, d_model=64)
    model = build(config, 0, kernel=plain)
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.zeros(2, config.context_length, dtype=torch.long))
    L, C = config.n_layer, config.d_model
    vectors = 13 * L * C + 2 * C  # biases and LayerNorm gains, which the formula counts as if they were multiplied
    assert vectors == sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 1)
    forward_and_backward = 3 * counter.get_total_flops() / (2 * config.context_length)
    assert flops_per_token(config) == forward_and_backward + 6 * vectors
    assert flops_per_token(config) == pytest.approx(forward_and_backward, rel=0.02)


# --- forward -----------------------------------------------------------------------------------------------------------------


def test_forward_is_embed_blocks_unembed():
    model, tokens = tiny(), ids(2, 7)
    x, shared = model.embed(tokens)
    for block in model.blocks:
        x = block(x, shared)
    assert torch.equal(model.unembed(x), model(tokens))


@pytest.mark.parametrize("pattern", [("dense",), ("dense", "banded"), ("banded",)])
def test_forward_is_the_paper_s_formula(pattern):
    model, tokens = tiny(dtype=torch.float64, attention_pattern=pattern, attention_band=3), ids(2, 7)
    state = model.state_dict()
    norm = lambda x, name: F.layer_norm(x, (16,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)  # noqa: E731
    linear = lambda x, name: x @ state[f"{name}.weight"].T + state[f"{name}.bias"]  # noqa: E731
    x = state["token_embedding.weight"][tokens] + state["position_embedding.weight"][:7]
    for layer in range(2):
        block = f"blocks.{layer}"
        heads = linear(norm(x, f"{block}.attention_norm"), f"{block}.attention.qkv").split(16, dim=-1)
        band = 3 if pattern[layer % len(pattern)] == "banded" else 12
        gathered = torch.zeros_like(x)
        for head in range(2):
            q, k, v = (part[..., 8 * head : 8 * head + 8] for part in heads)
            for t in range(7):
                seen = slice(max(0, t + 1 - band), t + 1)
                weights = (q[:, t : t + 1] @ k[:, seen].transpose(1, 2) / math.sqrt(8)).softmax(-1)
                gathered[:, t, 8 * head : 8 * head + 8] = (weights @ v[:, seen])[:, 0]
        x = x + linear(gathered, f"{block}.attention.out")
        up = linear(norm(x, f"{block}.mlp_norm"), f"{block}.mlp.up")
        up = 0.5 * up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
        x = x + linear(up, f"{block}.mlp.down")
    by_hand = norm(x, "norm") @ state["token_embedding.weight"][:50].T
    torch.testing.assert_close(model(tokens), by_hand, rtol=0, atol=1e-11)


@pytest.mark.parametrize("pattern", [("dense",), ("dense", "banded")])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("changed", [1, 5, 11])
def test_the_future_never_changes_the_past(kernel, changed, pattern):
    model, tokens = tiny(kernel, attention_pattern=pattern, attention_band=4), ids(3, 12)
    other = tokens.clone()
    other[:, changed:] = (other[:, changed:] + 1) % TINY.tokens
    before, after = model(tokens), model(other)
    torch.testing.assert_close(before[:, :changed], after[:, :changed], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, changed:], after[:, changed:], atol=1e-3)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("band", [1, 3])
def test_two_banded_layers_see_twice_as_far_as_one_and_no_farther(kernel, band):
    model, tokens = tiny(kernel, attention_pattern=("banded",), attention_band=band), ids(3, 12)
    other = tokens.clone()
    other[:, 0] = (other[:, 0] + 1) % TINY.tokens
    farthest = 2 * (band - 1)
    changed = (model(tokens) - model(other)).abs().amax(dim=(0, 2))
    assert (changed[: farthest + 1] > 1e-3).all()
    assert (changed[farthest + 1 :] < 1e-6).all()


@given(band=st.integers(12, 40))
def test_a_band_as_wide_as_the_context_is_bitwise_dense(band):
    tokens = ids(2, 12)
    assert torch.equal(tiny(attention_pattern=("banded",), attention_band=band)(tokens), tiny()(tokens))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own way of tracing a Function
@pytest.mark.parametrize("kernel", ["auto", "fused"])
def test_it_compiles_into_one_graph_forward_and_backward(kernel):
    """Traced without generating code, which takes a minute; a break in the graph would raise. At this length auto takes blocks."""
    model, tokens = tiny(kernel, context_length=300, attention_pattern=("dense", "banded"), attention_band=5), ids(1, 300)
    torch.compiler.reset()
    logits = torch.compile(model, fullgraph=True, backend="aot_eager")(tokens)
    eager, weights = model(tokens), list(model.parameters())
    torch.testing.assert_close(logits, eager, rtol=1e-5, atol=1e-5)
    for ours, reference in zip(*(torch.autograd.grad(out.square().mean(), weights) for out in (logits, eager)), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-6)


def test_more_tokens_than_the_context_are_an_error():
    model = tiny()
    with pytest.raises(ValueError, match="at most context_length = 12 positions, came 13"):
        model(ids(1, 13))
    cache = KVCache(model.config, capacity=20)
    model(ids(1, 10), cache)
    with pytest.raises(ValueError, match="came 13"):
        model(ids(1, 3), cache)


def test_dropout_works_in_training_only():
    model, tokens = tiny(dropout=0.5), ids(2, 12)
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))
    seen = []
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(lambda module, inputs, out: seen.append(module.p))
    model(tokens)
    assert seen == [0.5] * (1 + 2 * TINY.n_layer)  # after the embedding and on both branches of each block


# --- the padded vocabulary ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [50, 64, 65])
def test_rows_that_pad_the_vocabulary_take_no_part(vocab_size):
    model = build(dataclasses.replace(TINY, vocab_size=vocab_size), 0)
    padded = model.token_embedding.weight
    assert padded.shape[0] % 64 == 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        logits = model(ids(2, 12))
        assert logits.shape == (2, 12, vocab_size)
        F.cross_entropy(logits.flatten(0, 1), ids(2, 12, seed=1).flatten()).backward()
        assert padded.grad[:50].abs().min() > 0
        assert not padded.grad[vocab_size:].any()
        optimizer.step()
        optimizer.zero_grad()
    assert not padded[vocab_size:].any()


# --- the head ----------------------------------------------------------------------------------------------------------------


def test_a_head_of_its_own_begins_as_it_is_told_and_shares_nothing():
    model = tiny(tied_head=False)
    assert not model.head.weight.any()
    assert not model(ids(2, 12)).any()  # all tokens equally likely
    model = tiny(tied_head=False, head_init_std=0.1)
    assert float(model.head.weight[:50].detach().std()) == pytest.approx(0.1, rel=0.15)
    assert not model.head.weight[50:].any()
    x = torch.randn(2, 3, 16)
    torch.testing.assert_close(model.unembed(x), model.norm(x) @ model.head.weight[:50].T)


@pytest.mark.parametrize("tied", [True, False])
def test_a_softcap_bends_the_logits(tied):
    tokens = ids(2, 12)
    free, capped = (tiny(tied_head=tied, head_init_std=0.3, logit_softcap=cap)(tokens) for cap in (None, 2.0))
    assert free.abs().max() > 2 > capped.abs().max()
    torch.testing.assert_close(capped, 2 * torch.tanh(free / 2))


def test_a_softcap_is_computed_in_32_bits():
    model, tokens = tiny(logit_softcap=30.0), ids(2, 12)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(tokens).dtype == torch.float32
        assert tiny()(tokens).dtype == torch.bfloat16
    assert tiny(dtype=torch.float64, logit_softcap=30.0)(tokens).dtype == torch.float64


def test_an_embedding_may_be_normalised():
    x, _ = tiny(embedding_norm=True, norm="rmsnorm-no-gain").embed(ids(2, 12))
    torch.testing.assert_close(x.square().mean(-1), torch.ones(2, 12), rtol=1e-3, atol=1e-3)

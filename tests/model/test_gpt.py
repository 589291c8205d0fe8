"""The model: its sizes, its three steps, causality, the cache and the kernels against the plain ones, and every initial weight."""

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from daybreak.model.attention import KERNELS, plain
from daybreak.model.config import SIZES, GPTConfig
from daybreak.model.flops import flops_per_token, parameter_count
from daybreak.model.gpt import GPT
from daybreak.model.init import build, std_table
from daybreak.model.kv_cache import KVCache

TINY = GPTConfig(vocab_size=50, context_length=12, n_layer=2, n_head=2, d_model=16)


def tiny(kernel="auto", dtype=torch.float32, **changes):
    config = dataclasses.replace(TINY, init_std=0.3, **changes)
    return build(config, seed=1, kernel=KERNELS[kernel]).to(dtype).eval()


def ids(B, T, seed=0):
    return torch.randint(TINY.tokens, (B, T), generator=torch.Generator().manual_seed(seed))


# --- sizes -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "published"), [("124m", 124_439_808), ("355m", 354_823_168), ("774m", 774_030_080), ("1558m", 1_557_611_200)]
)
def test_the_published_sizes_have_the_published_number_of_parameters(size, published):
    config = SIZES["gpt2"][size]
    with torch.device("meta"):
        model = GPT(config)
    assert parameter_count(config) == published
    assert parameter_count(config, padded=True) == sum(parameter.numel() for parameter in model.parameters())
    assert model.token_embedding.weight.shape == (50304, config.d_model)


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
    x = model.embed(tokens)
    for block in model.blocks:
        x = block(x)
    assert torch.equal(model.unembed(x), model(tokens))


def test_forward_is_the_paper_s_formula():
    model, tokens = tiny(dtype=torch.float64), ids(2, 7)
    state = model.state_dict()
    norm = lambda x, name: F.layer_norm(x, (16,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)  # noqa: E731
    linear = lambda x, name: x @ state[f"{name}.weight"].T + state[f"{name}.bias"]  # noqa: E731
    x = state["token_embedding.weight"][tokens] + state["position_embedding.weight"][:7]
    for layer in range(2):
        block = f"blocks.{layer}"
        heads = linear(norm(x, f"{block}.attention_norm"), f"{block}.attention.qkv").split(16, dim=-1)
        gathered = torch.zeros_like(x)
        for head in range(2):
            q, k, v = (part[..., 8 * head : 8 * head + 8] for part in heads)
            for t in range(7):
                weights = (q[:, t : t + 1] @ k[:, : t + 1].transpose(1, 2) / math.sqrt(8)).softmax(-1)
                gathered[:, t, 8 * head : 8 * head + 8] = (weights @ v[:, : t + 1])[:, 0]
        x = x + linear(gathered, f"{block}.attention.out")
        up = linear(norm(x, f"{block}.mlp_norm"), f"{block}.mlp.up")
        up = 0.5 * up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
        x = x + linear(up, f"{block}.mlp.down")
    by_hand = norm(x, "norm") @ state["token_embedding.weight"][:50].T
    torch.testing.assert_close(model(tokens), by_hand, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("changed", [1, 5, 11])
def test_the_future_never_changes_the_past(kernel, changed):
    model, tokens = tiny(kernel), ids(3, 12)
    other = tokens.clone()
    other[:, changed:] = (other[:, changed:] + 1) % TINY.tokens
    before, after = model(tokens), model(other)
    torch.testing.assert_close(before[:, :changed], after[:, :changed], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, changed:], after[:, changed:], atol=1e-3)


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
    for kernel in KERNELS.values():  # in the attention too
        q = torch.ones(1, 1, 12, 4)
        torch.testing.assert_close(kernel(q, q, q, 0.0), q)
        assert not torch.allclose(kernel(q, q, q, 0.5), q)


# --- kernels and cache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", sorted(set(KERNELS) - {"plain"}))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 9), (9, 9), (4, 9), (600, 600)])
def test_every_kernel_equals_the_plain_one_with_its_gradients(kernel, dtype, tolerance, T, S):
    draw = torch.Generator().manual_seed(T * 1000 + S)
    shapes = [(2, 3, T, 8), (2, 3, S, 8), (2, 3, S, 8)]
    given_ = [torch.randn(shape, dtype=dtype, generator=draw) for shape in shapes]
    upstream = torch.randn(shapes[0], dtype=dtype, generator=draw)
    results = []
    for function in (KERNELS[kernel], plain):
        inputs = [tensor.clone().requires_grad_() for tensor in given_]
        out = function(*inputs, 0.0)
        results.append([out, *torch.autograd.grad(out, inputs, upstream)])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=10)
@given(cuts=st.sets(st.integers(1, 11)), B=st.integers(1, 3))
def test_reading_in_pieces_with_a_cache_equals_reading_at_once(kernel, cuts, B):
    model, tokens = tiny(kernel), ids(B, 12)
    cache = KVCache(model.config, batch=B)
    edges = [0, *sorted(cuts), 12]
    with torch.no_grad():
        pieces = [model(tokens[:, start:end], cache) for start, end in itertools.pairwise(edges)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), rtol=1e-4, atol=1e-5)
    assert cache.length == 12


def test_a_rewound_cache_is_as_one_that_never_went_on():
    model, tokens = tiny(), ids(1, 8)
    cache = KVCache(model.config)
    with torch.no_grad():
        model(tokens, cache)
        cache.rewind(3)
        other = torch.cat([tokens[:, :3], ids(1, 5, seed=7)], dim=1)
        torch.testing.assert_close(model(other[:, 3:], cache), model(other)[:, 3:], rtol=1e-4, atol=1e-5)
    cache.rewind()
    assert cache.length == 0


def test_a_cache_names_what_does_not_fit():
    model = tiny()
    cache = KVCache(model.config, capacity=5)
    with pytest.raises(ValueError, match="at most 5 tokens, came 6"):
        model(ids(1, 6), cache)
    with pytest.raises(ValueError, match="wanted a batch of 1, for which it was made, came 2"):
        model(ids(2, 3), cache)
    model(ids(1, 3), cache)
    for length in (-1, 4):
        with pytest.raises(ValueError, match=f"a length from 0 to 3, came {length}"):
            cache.rewind(length)


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


# --- init --------------------------------------------------------------------------------------------------------------------

MID = GPTConfig(vocab_size=2000, context_length=256, n_layer=6, n_head=4, d_model=128)


def test_every_initial_weight_is_as_the_table_says():
    model = build(MID, 3)
    table = std_table(MID)
    assert table["attention.out.weight"] == table["mlp.down.weight"] == pytest.approx(0.02 / math.sqrt(12))
    assert table["position_embedding.weight"] == 0.01
    seen = set()
    for name, parameter in model.state_dict().items():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.dim() == 1:
            assert (parameter == 1).all(), name
        else:
            ending = next(ending for ending in table if name.endswith(ending))
            drawn = parameter[: MID.tokens] if "token" in name else parameter
            error = 5 / math.sqrt(2 * drawn.numel())  # five standard errors of a standard deviation
            assert float(drawn.std()) == pytest.approx(table[ending], rel=error), name
            assert abs(float(drawn.mean())) < 5 * table[ending] / math.sqrt(drawn.numel()), name
            seen.add(ending)
    assert seen == set(table)


def test_the_initial_weights_depend_on_seed_and_name_only():
    first, again, other = build(TINY, 5).state_dict(), build(TINY, 5).state_dict(), build(TINY, 6).state_dict()
    torch.manual_seed(99)
    assert all(torch.equal(first[name], again[name]) for name in first)
    deeper = build(dataclasses.replace(TINY, n_layer=3, init_std=TINY.init_std), 5).state_dict()
    assert torch.equal(first["blocks.1.mlp.up.weight"], deeper["blocks.1.mlp.up.weight"])
    matrices = [name for name in first if first[name].dim() == 2]
    assert not any(torch.equal(first[name], other[name]) for name in matrices)
    assert not torch.equal(first["blocks.0.mlp.up.weight"], first["blocks.1.mlp.up.weight"])


def test_building_leaves_the_global_random_numbers_alone():
    before = torch.get_rng_state()
    build(TINY, 5)
    assert torch.equal(before, torch.get_rng_state())


def test_the_initial_weights_are_these_forever():
    drawn = build(TINY, 1337).state_dict()["blocks.0.attention.qkv.weight"][0, :3]
    assert drawn.tolist() == pytest.approx([0.00639163, 0.01716178, 0.00862406], abs=1e-7)

"""The kernels: each against loops that use no mask at all, against the plain one at length, and what keeps them cheap."""

import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from daybreak.model import attention, flex
from daybreak.model.attention import KERNELS, Attention, blocked, fused, grouped, plain
from daybreak.model.config import GPTConfig
from daybreak.model.shared import Shared

ALL = {**KERNELS, "blocked": blocked}
FAST = sorted(set(ALL) - {"plain"})


def drawn(T, S, D=8, H=3, dtype=torch.float32):
    """Queries, keys, values, and the gradient that comes from above."""
    draw = torch.Generator().manual_seed(T * 1000 + S)
    shapes = [(2, H, T, D), (2, H, S, D), (2, H, S, D), (2, H, T, D)]
    return [torch.randn(shape, dtype=torch.float64, generator=draw).to(dtype) for shape in shapes]


def with_gradients(kernel, given_, upstream, band):
    """[out, gradients of queries, keys and values]."""
    inputs = [tensor.clone().requires_grad_() for tensor in given_]
    out = kernel(*inputs, 0.0, band)
    return [out, *torch.autograd.grad(out, inputs, upstream)]


def loops(queries, keys, values, dropout, band):
    """One query at a time, with the keys that it sees and no others."""
    T, S, D = queries.shape[2], keys.shape[2], queries.shape[3]
    rows = []
    for t in range(T):
        last = t + S - T
        seen = slice(0 if band is None else max(0, last + 1 - band), last + 1)
        scores = torch.einsum("bhd,bhsd->bhs", queries[:, :, t], keys[:, :, seen]) / math.sqrt(D)
        rows.append(torch.einsum("bhs,bhsd->bhd", scores.softmax(-1), values[:, :, seen]))
    return torch.stack(rows, dim=2)


@pytest.mark.parametrize("kernel", ALL)
@settings(max_examples=40)
@given(
    T=st.integers(1, 20),
    before=st.integers(0, 20),
    band=st.none() | st.integers(1, 45),
    block=st.sampled_from([1, 2, 3, 7, 128]),
)
def test_every_kernel_is_the_loops_with_its_gradients(kernel, T, before, band, block):
    *given_, upstream = drawn(T, T + before, D=4, H=2, dtype=torch.float64)
    with mock.patch.object(attention, "BLOCK", block):
        results = with_gradients(ALL[kernel], given_, upstream, band)
    for ours, reference in zip(results, with_gradients(loops, given_, upstream, band), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kernel", FAST)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("band", [None, 1, 5, 130, 256])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 9), (9, 9), (4, 9), (600, 600), (520, 777)])
def test_every_kernel_equals_the_plain_one_with_its_gradients(kernel, dtype, tolerance, T, S, band):
    *given_, upstream = drawn(T, S, dtype=dtype)
    results = with_gradients(ALL[kernel], given_, upstream, band)
    for ours, reference in zip(results, with_gradients(plain, given_, upstream, band), strict=True):
        torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kernel", ALL)
@pytest.mark.parametrize("band", [None, 40])
def test_bf16_errs_by_its_rounding_only(kernel, band):
    *given_, upstream = drawn(300, 300, D=16, dtype=torch.bfloat16)
    results = with_gradients(ALL[kernel], given_, upstream, band)
    exact = with_gradients(plain, [tensor.double() for tensor in given_], upstream.double(), band)
    for ours, reference in zip(results, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - reference).norm() < 0.01 * reference.norm()


@pytest.mark.parametrize("kernel", ALL)
@given(T=st.integers(1, 12), before=st.integers(0, 12), more=st.integers(0, 9))
def test_a_band_that_holds_every_key_is_bitwise_none(kernel, T, before, more):
    *given_, _ = drawn(T, T + before)
    assert torch.equal(ALL[kernel](*given_, 0.0, T + before + more), ALL[kernel](*given_, 0.0, None))


@pytest.mark.parametrize("kernel", ALL)
@pytest.mark.parametrize("band", [None, 16])
def test_dropout_strikes_the_share_it_should_and_scales_the_rest(kernel, band):
    T, share = 64, 0.3
    zeros, unit = torch.zeros(1, 8, T, T), torch.eye(T).expand(1, 8, T, T)  # equal scores, and values that show the weights
    kept = ALL[kernel](zeros, zeros, unit, 0.0, band)
    torch.manual_seed(0)
    struck = ALL[kernel](zeros, zeros, unit, share, band)
    seen = kept > 0
    assert int(seen[0, 0].sum()) == sum(min(t + 1, band or T) for t in range(T))
    assert not struck[~seen].any()
    left = struck[seen] > 0
    torch.testing.assert_close(struck[seen][left], kept[seen][left] / (1 - share))
    count = left.numel()
    assert abs(float(left.double().mean()) - (1 - share)) < 4 * math.sqrt(share * (1 - share) / count)
    torch.manual_seed(0)
    assert torch.equal(ALL[kernel](zeros, zeros, unit, share, band), struck)


# --- cost --------------------------------------------------------------------------------------------------------------------


def operations(kernel, T, band, D=64):
    inputs = [torch.zeros(1, 1, T, D, requires_grad=True) for _ in range(3)]
    with FlopCounterMode(display=False) as counter:
        kernel(*inputs, 0.0, band).sum().backward()
    return counter.get_total_flops()


def test_blocks_cost_the_band_and_one_block_per_token_and_not_the_square():
    T, band = 2048, 256
    assert operations(plain, T, band) == operations(plain, T, None) == 6 * 2 * T * T * 64
    assert operations(blocked, T, band) == 6 * 2 * T * (band + attention.BLOCK) * 64


def refused(*arguments):
    raise AssertionError("reached")


@pytest.mark.parametrize(("T", "S", "band"), [(128, 128, 16), (640, 640, 64), (1, 9, 4), (1, 9, 20), (256, 256, None)])
def test_a_cpu_never_meets_flex(T, S, band):
    *given_, _ = drawn(T, S, D=16)
    with mock.patch.object(flex, "attention", refused):
        KERNELS["auto"](*given_, 0.0, band)


def test_auto_takes_blocks_where_they_pay():
    for T, band, pays in [(2048, 256, True), (1024, 256, True), (512, 128, True), (512, 256, False), (64, 16, False), (200, 256, False)]:
        *given_, _ = drawn(T, T, H=1)
        with mock.patch.object(attention, "blocked", mock.Mock(wraps=blocked)) as taken:
            KERNELS["auto"](*given_, 0.0, band)
        assert taken.called is pays


# --- masks -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "band"), [(plain, None), (plain, 5), (fused, 5), (blocked, 5)])
def test_a_mask_is_made_once_for_all_layers(kernel, band):
    *given_, _ = drawn(30, 30)
    attention._kept.cache_clear()
    for _ in range(3):
        kernel(*given_, 0.0, band)
    assert attention._kept.cache_info().misses == 1
    assert attention._kept.cache_info().hits == 2


@pytest.mark.parametrize("kernel", [plain, fused, blocked])
def test_a_mask_made_while_inferring_serves_in_training(kernel):
    *given_, upstream = drawn(30, 30)
    attention._kept.cache_clear()
    with torch.inference_mode():
        kernel(*given_, 0.0, 5)
    with_gradients(kernel, given_, upstream, 5)


@pytest.mark.parametrize("kernel", [plain, fused, blocked])
def test_a_mask_without_numbers_is_not_kept(kernel):
    *given_, _ = drawn(30, 30)
    attention._kept.cache_clear()
    with FakeTensorMode() as mode:
        kernel(*(mode.from_tensor(tensor) for tensor in given_), 0.0, 5)
    assert attention._kept.cache_info().currsize == 0


# --- what is done to heads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ALL)
@pytest.mark.parametrize("band", [None, 3])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 9), (9, 9), (4, 9)])
@pytest.mark.parametrize("heads", [1, 2])
def test_shared_keys_are_repeated_keys(kernel, band, T, S, heads):
    queries, *_, upstream = drawn(T, S, H=4, dtype=torch.float64)
    _, keys, values, _ = drawn(T, S, H=heads, dtype=torch.float64)
    ours = with_gradients(grouped(ALL[kernel]), (queries, keys, values), upstream, band)

    def repeated(queries, keys, values, dropout, band):
        """Head h of the queries with head h // group of the keys."""
        which = torch.arange(4) // (4 // heads)
        return plain(queries, keys[:, which], values[:, which], dropout, band)

    for one, other in zip(ours, with_gradients(repeated, (queries, keys, values), upstream, band), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_one_token_is_gathered_without_copies_of_what_is_kept():
    sizes = []

    def noted(queries, keys, values, dropout, band):
        sizes.append(keys.shape[1])
        return plain(queries, keys, values, dropout, band)

    queries, keys, values = torch.randn(2, 4, 1, 8), torch.randn(2, 2, 30, 8), torch.randn(2, 2, 30, 8)
    grouped(noted)(queries, keys, values, 0.0, None)
    assert sizes == []
    grouped(noted)(queries, keys, values, 0.0, 5)  # of a band some keys are out of sight, and a mask needs each query's own
    grouped(noted)(queries.expand(2, 4, 3, 8), keys, values, 0.0, None)
    assert sizes == [4, 4]


@pytest.mark.parametrize("n_kv_head", [None, 1, 2])
def test_the_rows_of_the_fused_projection_are_queries_keys_and_values(n_kv_head):
    config = GPTConfig(vocab_size=50, context_length=12, n_layer=1, n_head=4, d_model=32, n_kv_head=n_kv_head)
    part = Attention(config, plain)
    x, K = torch.randn(2, 12, 32), n_kv_head or 4
    assert part.qkv_rows == [32, 8 * K, 8 * K]
    three = zip(part.qkv.weight.split(part.qkv_rows), part.qkv.bias.split(part.qkv_rows), strict=True)
    queries, keys, values = ((x @ weight.T + bias).view(2, 12, -1, 8).transpose(1, 2) for weight, bias in three)
    gathered = grouped(plain)(queries, keys, values, 0.0, None).transpose(1, 2).reshape(2, 12, 32)
    torch.testing.assert_close(part(x, Shared()), part.out(gathered))


def test_normalised_queries_and_keys_bound_the_scores():
    config = GPTConfig(vocab_size=50, context_length=12, n_layer=1, n_head=2, d_model=32, qk_norm=True)
    met = []

    def watched(queries, keys, values, dropout, band):
        met.append((queries, keys))
        return plain(queries, keys, values, dropout, band)

    part, x = Attention(config, watched), 100 * torch.randn(2, 12, 32)
    part(x, Shared())
    ((queries, keys),) = met
    raw = part.qkv(x).split(32, dim=-1)
    for came, before in zip((queries, keys), raw, strict=False):
        heads = before.view(2, 12, 2, 16).transpose(1, 2)
        torch.testing.assert_close(came, 4 * heads / heads.norm(dim=-1, keepdim=True), rtol=1e-4, atol=1e-4)
    assert (queries @ keys.mT / 4).abs().max() <= 4 + 1e-3

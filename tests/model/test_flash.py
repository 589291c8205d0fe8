"""FlashAttention's lecture: exact for any tiles, right in its gradients, and never in need of memory that grows as T squared."""

import math
import subprocess
import sys
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from daybreak.model import attention, flash
from daybreak.model.attention import KERNELS, plain


def drawn(T, S, D=8, dtype=torch.float64, scale=1.0):
    """Queries, keys, values and the gradient from above, as views of projections: (B, T, H, D) in memory, with more between."""
    draw = torch.Generator().manual_seed(T * 1000 + S)
    lengths = (T, S, S, T)
    return [(scale * torch.randn(2, n, 3, 3, D, dtype=torch.float64, generator=draw)).to(dtype)[:, :, 1].transpose(1, 2) for n in lengths]


def with_gradients(kernel, queries, keys, values, upstream, band):
    inputs = [tensor.detach().requires_grad_() for tensor in (queries, keys, values)]
    out = kernel(*inputs, 0.0, band)
    return [out, *torch.autograd.grad(out, inputs, upstream)]


@settings(max_examples=60)
@given(T=st.integers(1, 30), before=st.integers(0, 30), D=st.integers(1, 9), band=st.none() | st.integers(1, 70), tile=st.integers(1, 40))
def test_it_is_the_plain_one_whatever_the_tiles(T, before, D, band, tile):
    tensors = drawn(T, T + before, D)
    with mock.patch.object(flash, "TILE", tile):
        results = with_gradients(KERNELS["daybreak"], *tensors, band)
    for ours, reference in zip(results, with_gradients(plain, *tensors, band), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("T", [1, 7, 127, 128, 129, 300])
@pytest.mark.parametrize("band", [None, 50])
def test_in_fp32_it_is_within_rounding_of_fp64(T, band):
    tensors = drawn(T, T, 16, torch.float32)
    exact = with_gradients(plain, *(tensor.double() for tensor in tensors), band)
    for ours, single, reference in zip(
        with_gradients(KERNELS["daybreak"], *tensors, band), with_gradients(plain, *tensors, band), exact, strict=True
    ):
        torch.testing.assert_close(ours, single, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.double(), reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("T", "S", "band"), [(1, 1, None), (5, 5, None), (5, 5, 2), (3, 7, None), (4, 9, 3)])
def test_gradients_are_those_of_finite_differences(T, S, band, monkeypatch):
    monkeypatch.setattr(flash, "TILE", 2)
    inputs = [tensor[:1, :2].detach().requires_grad_() for tensor in drawn(T, S, 3)[:3]]
    assert torch.autograd.gradcheck(lambda *given_: flash.attention(*given_, band), inputs)


def test_the_number_kept_for_each_query_is_the_logarithm_of_its_softmax_s_sum():
    queries, keys, values, _ = drawn(20, 20)
    scores = (queries @ keys.mT / math.sqrt(8)).masked_fill(torch.ones(20, 20).triu(1).bool(), -math.inf)
    _, logsumexp = flash.forward(queries, keys, values, band=20)
    torch.testing.assert_close(logsumexp, scores.logsumexp(-1))


@pytest.mark.parametrize("scale", [30.0, 1e-3])
def test_scores_of_any_size_neither_overflow_nor_vanish(scale):
    """30 squared times 8 is far above what exp can take in fp32, 88."""
    tensors = drawn(40, 40, dtype=torch.float32, scale=scale)
    results = with_gradients(KERNELS["daybreak"], *tensors, None)
    exact = with_gradients(plain, *(tensor.double() for tensor in tensors), None)
    for ours, reference in zip(results, exact, strict=True):
        assert (ours.double() - reference).norm() <= 1e-3 * reference.norm()


def test_autocast_does_not_lower_its_sums():
    tensors = drawn(40, 40, dtype=torch.float32)
    outside = with_gradients(KERNELS["daybreak"], *tensors, None)
    with torch.autocast("cpu", torch.bfloat16):
        inside = with_gradients(KERNELS["daybreak"], *tensors, None)
    assert all(torch.equal(a, b) for a, b in zip(outside, inside, strict=True))


def test_dropout_is_left_to_the_fused_one():
    tensors = drawn(30, 30)[:3]
    torch.manual_seed(0)
    ours = KERNELS["daybreak"](*tensors, 0.5, 7)
    torch.manual_seed(0)
    assert torch.equal(ours, attention.fused(*tensors, 0.5, 7))


def test_the_output_is_laid_out_for_the_next_projection():
    out, *gradients = with_gradients(KERNELS["daybreak"], *drawn(10, 10), None)
    assert all(tensor.transpose(1, 2).is_contiguous() for tensor in (out, *gradients))


def test_a_second_derivative_is_an_error():
    inputs = [tensor.detach().requires_grad_() for tensor in drawn(4, 4)[:3]]
    (gradient, *_) = torch.autograd.grad(flash.attention(*inputs).square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_the_operators_keep_torch_s_promises():
    queries, keys, values, upstream = drawn(5, 7)
    out, logsumexp = flash.forward(queries, keys, values, 7)
    torch.library.opcheck(flash._forward, (queries, keys, values, 7))
    torch.library.opcheck(flash._backward, (upstream, queries, keys, values, out, logsumexp, 3))


# --- cost --------------------------------------------------------------------------------------------------------------------


class Watch(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operation made, and how many products of matrices there were."""

    def __init__(self):
        super().__init__()
        self.largest = self.products = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.largest = max(self.largest, made.numel())
        self.products += operation in (torch.ops.aten.bmm.default, torch.ops.aten.mm.default)
        return made


def watched(T, band=None):
    """Forward and backward of the lecture itself, as the operators around it hide what they do."""
    queries, keys, values, upstream = drawn(T, T, 16, torch.float32)
    with Watch() as watch:
        out, logsumexp = flash.forward(queries, keys, values, band or T)
        flash.backward(upstream, queries, keys, values, out, logsumexp, band or T)
    return watch


def test_memory_grows_as_the_tokens_do_and_not_as_their_square(monkeypatch):
    monkeypatch.setattr(flash, "TILE", 16)
    assert watched(1024).largest == 4 * watched(256).largest == 2 * 3 * 1024 * 16  # (B, H, T, D)
    with Watch() as watch:
        plain(*drawn(1024, 1024, 16)[:3], 0.0)
    assert watch.largest == 2 * 3 * 1024 * 1024


def test_it_keeps_its_inputs_its_output_and_one_number_per_query():
    kept = []
    inputs = [tensor.detach().requires_grad_() for tensor in drawn(300, 300, 16)[:3]]
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.numel()), tensor)[1], lambda tensor: tensor):
        flash.attention(*inputs)
    assert sum(kept) == 4 * 2 * 3 * 300 * 16 + 2 * 3 * 300


def test_tiles_that_no_query_sees_are_not_visited(monkeypatch):
    monkeypatch.setattr(flash, "TILE", 32)
    per_tile = 2 + 5
    assert watched(256).products == per_tile * (8 * 9 // 2)
    assert watched(256, band=33).products == per_tile * (1 + 2 * 7)


def test_the_package_needs_no_triton():
    code = "import sys; sys.modules['triton'] = None; import torch, daybreak.model.attention as a; q = torch.ones(1, 1, 3, 4); "
    code += "print(a.KERNELS['daybreak'](q, q, q, 0.0, None).sum())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.strip() == "tensor(12.)", done.stderr

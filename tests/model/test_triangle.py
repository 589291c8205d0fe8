"""The triangle of attention against the square: the same numbers, the same gradients, less work."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from daybreak.model import triangle
from daybreak.model.attention import automatic, plain


def made(B, H, T, S, D, dtype=torch.float32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shapes = ((B, H, T, D), (B, H, S, D), (B, H, S, D))
    return [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def told(kernel, tensors, gradient):
    out = kernel(*tensors)
    return [out.detach(), *torch.autograd.grad(out, tensors, gradient)]


@settings(max_examples=25)
@given(B=st.integers(1, 2), H=st.integers(1, 3), T=st.integers(1, 300), past=st.integers(0, 150), D=st.sampled_from([1, 4, 8]))
def test_it_is_the_plain_one(B, H, T, past, D):
    tensors = made(B, H, T, T + past, D)
    gradient = torch.randn(B, H, T, D, generator=torch.Generator().manual_seed(1))
    ours, theirs = (told(kernel, tensors, gradient) for kernel in (triangle.attention, lambda q, k, v: plain(q, k, v, 0.0)))
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("kept", [0, 1 << 30])
def test_its_gradient_is_right_whether_weights_are_kept_or_computed_again(monkeypatch, kept):
    monkeypatch.setattr(triangle, "KEPT_BYTES", kept)
    monkeypatch.setattr(triangle, "BLOCK", 3)
    assert torch.autograd.gradcheck(triangle.attention, made(1, 2, 7, 9, 2, torch.float64))


def test_in_bf16_it_is_as_near_to_the_truth_as_the_plain_one():
    gradient = torch.randn(1, 2, 600, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = told(triangle.attention, made(1, 2, 600, 600, 16, torch.float64), gradient)
    tensors = made(1, 2, 600, 600, 16, torch.bfloat16)
    ours, theirs = (told(kernel, tensors, gradient.bfloat16()) for kernel in (triangle.attention, lambda q, k, v: plain(q, k, v, 0.0)))
    for mine, its, true in zip(ours, theirs, truth, strict=True):
        assert (mine - true).norm() < 1.5 * (its - true).norm()


def test_it_leaves_the_masked_half_out():
    tensors = made(1, 1, 1024, 1024, 8)

    def operations(kernel):
        with FlopCounterMode(display=False) as counter:
            kernel(*tensors)
        return counter.get_total_flops()

    kept = 8  # blocks of 128: (1 + 2 + ... + 8) / 64 of the square
    assert operations(triangle.attention) / operations(lambda q, k, v: plain(q, k, v, 0.0)) == pytest.approx((kept + 1) / (2 * kept))


def test_long_contexts_on_a_cpu_take_it():
    tensors = made(1, 1, 600, 600, 8)
    assert torch.equal(automatic(*tensors, 0.0), triangle.attention(*tensors))
    assert torch.equal(automatic(*tensors, 0.0, 600), triangle.attention(*tensors))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own way of tracing a Function
def test_it_compiles_as_one_graph():
    tensors = made(1, 2, 300, 300, 4)
    gradient = torch.randn(1, 2, 300, 4, generator=torch.Generator().manual_seed(1))
    compiled = torch.compile(triangle.attention, backend="aot_eager", fullgraph=True)
    for mine, its in zip(told(compiled, tensors, gradient), told(triangle.attention, tensors, gradient), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)

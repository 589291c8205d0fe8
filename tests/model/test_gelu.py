"""GELU by a sigmoid is GELU by tanh, and is what a compiler for CPUs gets to see."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from daybreak.model.gelu import by_sigmoid, gelu


def told(function, x, upstream):
    x = x.detach().clone().requires_grad_()
    out = function(x)
    return out.detach(), torch.autograd.grad(out, x, upstream)[0]


def by_tanh(x):
    return F.gelu(x, approximate="tanh")


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20))
def test_it_is_the_tanh_form_for_any_number(numbers):
    x = torch.tensor(numbers, dtype=torch.float64)
    for ours, theirs in zip(told(by_sigmoid, x, torch.ones_like(x)), told(by_tanh, x, torch.ones_like(x)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 2.0), (torch.bfloat16, 1.01)])
def test_rounded_it_is_about_as_near_to_the_truth_as_torchs(dtype, factor):
    x, upstream = torch.randn(2, 20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    truth = told(by_tanh, x.double(), upstream.double())
    for ours, theirs, true in zip(told(by_sigmoid, x, upstream), told(by_tanh, x, upstream), truth, strict=True):
        assert ours.dtype == dtype
        assert (ours - true).norm() < factor * (theirs - true).norm()


def test_only_a_compiler_sees_the_sigmoid():
    x = torch.randn(100)
    assert torch.equal(gelu(x), by_tanh(x))
    seen = []

    def backend(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(gelu, backend=backend, fullgraph=True)
    assert torch.equal(compiled(x), by_sigmoid(x))
    assert any("sigmoid" in name for name in seen)
    assert not any("gelu" in name for name in seen)

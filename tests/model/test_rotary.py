"""Rotary positions: turned as complex numbers are, so that scores depend on distances, and nothing is longer or shorter for it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from daybreak.model import rotary
from daybreak.model.config import GPTConfig
from daybreak.model.rotary import Rotary, turned

CONFIG = GPTConfig(vocab_size=50, context_length=64, n_layer=1, n_head=2, d_model=32, position="rotary", rotary_base=100.0)
D = CONFIG.head_size


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def as_complex(x, positions, base):
    """(B, T, H, D): channels i and i + D/2 as one number, times e^(i t base^(-2i/D))."""
    numbers = torch.complex(*x.double().chunk(2, dim=-1))
    angles = positions[..., None, None] * base ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    numbers = numbers * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([numbers.real, numbers.imag], dim=-1).to(x.dtype)


@pytest.mark.parametrize("positions", [torch.arange(5), torch.arange(40, 45), torch.tensor([[0, 1, 2, 3, 4], [9, 8, 63, 0, 0]])])
def test_it_is_multiplication_with_complex_numbers(positions):
    x = drawn(2, 5, 3, D)
    torch.testing.assert_close(turned(x, Rotary(CONFIG)(positions)), as_complex(x, positions.double(), 100.0), rtol=1e-6, atol=1e-6)


@given(query=st.integers(0, 63), key=st.integers(0, 63), shift=st.integers(-63, 63))
def test_scores_depend_on_the_distance_alone(query, key, shift):
    def score(t, s):
        q, k = (turned(drawn(1, 1, 1, D, seed=seed), Rotary(CONFIG)(torch.tensor([at]))) for seed, at in ((1, t), (2, s)))
        return float((q * k).sum())

    if 0 <= query + shift < 64 and 0 <= key + shift < 64:
        assert score(query, key) == pytest.approx(score(query + shift, key + shift), abs=1e-4)
    assert score(query, query) == pytest.approx(float((drawn(1, 1, 1, D, seed=1) * drawn(1, 1, 1, D, seed=2)).sum()), abs=1e-4)


def test_no_length_changes_and_the_first_position_is_left_alone():
    x = drawn(2, 64, 3, D)
    out = turned(x, Rotary(CONFIG)(torch.arange(64)))
    torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(out[:, 0], x[:, 0])
    assert not torch.allclose(out[:, 1], x[:, 1], atol=1e-2)


def test_its_gradient():
    x = drawn(1, 4, 2, D, dtype=torch.float64).requires_grad_()
    rotation = tuple(part.double() for part in Rotary(CONFIG)(torch.arange(4)))
    assert torch.autograd.gradcheck(lambda x: turned(x, rotation), (x,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_it_is_computed_in_32(dtype):
    x = drawn(1, 64, 2, D).to(dtype)
    out = turned(x, Rotary(CONFIG)(torch.arange(64)))
    assert out.dtype == dtype
    assert torch.equal(out, turned(x.float(), Rotary(CONFIG)(torch.arange(64))).to(dtype))


def test_far_positions_are_as_exact_as_near_ones():
    """In fp32 the angle of position 100,000 would be off by some thousandths of a radian."""
    config = GPTConfig(vocab_size=50, context_length=100_001, n_layer=1, n_head=2, d_model=32, position="rotary")
    x = drawn(1, 1, 1, D)
    far = torch.tensor([100_000])
    torch.testing.assert_close(turned(x, Rotary(config)(far)), as_complex(x, far.double(), 10_000.0), rtol=0, atol=1e-6)


def test_a_table_made_while_inferring_serves_in_training_and_one_without_numbers_is_not_kept():
    rotary._kept.cache_clear()
    with FakeTensorMode():
        Rotary(CONFIG)(torch.arange(5))
    assert rotary._kept.cache_info().currsize == 0
    with torch.inference_mode():
        Rotary(CONFIG)(torch.arange(5))
    x = drawn(1, 5, 2, D).requires_grad_()
    turned(x, Rotary(CONFIG)(torch.arange(5))).sum().backward()
    assert rotary._kept.cache_info().misses == 1
    assert x.grad.isfinite().all()

"""FLOPs by both conventions: the published figures, and the matrix products that a model really takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from daybreak.model.attention import KERNELS
from daybreak.model.config import SIZES, GPTConfig
from daybreak.model.flops import flops_per_token, flops_per_token_6n, parameter_count
from daybreak.model.gpt import GPT


@pytest.mark.parametrize(
    ("size", "published"),
    [
        ("125m", 2.25e20),
        ("350m", 6.41e20),
        ("760m", 1.37e21),
        ("1.3b", 2.38e21),
        ("2.7b", 4.77e21),
        ("6.7b", 1.20e22),
        ("13b", 2.31e22),
        ("175b", 3.14e23),
    ],
)
def test_6n_gives_the_training_compute_of_the_gpt3_paper(size: str, published: float) -> None:
    """Table D.1, for 300 billion tokens; the paper rounds the parameters to a million and more."""
    assert flops_per_token_6n(SIZES["gpt3"][size]) * 300e9 == pytest.approx(published, rel=5e-3)


@pytest.mark.parametrize(("size", "gigaflops"), [("124m", 0.855), ("355m", 2.425), ("774m", 5.203), ("1558m", 10.28)])
def test_6n_and_attention_of_gpt2(size: str, gigaflops: float) -> None:
    """0.855 is what nanoGPT's `estimate_mfu` gives for 124M."""
    config = SIZES["gpt2"][size]
    L, C, T = config.n_layer, config.d_model, config.context_length
    assert flops_per_token(config) == 6 * (parameter_count(config) - T * C) + 12 * L * C * T
    assert flops_per_token(config) == pytest.approx(gigaflops * 1e9, rel=6e-4)


def test_it_is_what_the_matrix_products_of_a_step_take() -> None:
    """torch counts them as they run; the rest of 6N are biases and norms, which it does not count."""
    config = GPTConfig(vocab_size=512, context_length=128, n_layer=3, n_head=4, d_model=128)
    gpt = GPT(config, KERNELS["plain"])
    with FlopCounterMode(display=False) as counter:
        gpt(torch.randint(0, 512, (2, 128))).sum().backward()
    assert flops_per_token(config) == pytest.approx(counter.get_total_flops() / (2 * 128), rel=0.01)


def test_a_banded_layer_counts_twice_its_band() -> None:
    dense = replace(SIZES["gpt3"]["125m"], attention_pattern=("dense",))
    banded = replace(dense, attention_pattern=("dense", "banded"), attention_band=256)
    assert flops_per_token(dense) - flops_per_token(banded) == 12 * 768 * 6 * (2048 - 512)
    assert flops_per_token_6n(dense) == flops_per_token_6n(banded)
    assert flops_per_token(dense) == pytest.approx(0.968e9, rel=6e-4)


@given(band=st.integers(1, 3000), layers=st.integers(1, 6), context=st.integers(1, 2048))
def test_a_band_never_adds_work_and_a_wider_one_never_saves_any(band: int, layers: int, context: int) -> None:
    shape = GPTConfig(vocab_size=100, context_length=context, n_layer=layers, n_head=2, d_model=8, attention_pattern=("banded",))
    narrow, wide, dense = (
        flops_per_token(replace(shape, attention_band=width, attention_pattern=(kind,)))
        for width, kind in ((band, "banded"), (band + 1, "banded"), (band, "dense"))
    )
    assert narrow <= wide <= dense
    assert 2 * band < context or narrow == dense

"""The pool of pages: zeros that cost nothing before they are used. What is kept in it is tested with the engine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from daybreak.inference.pages import Pages
from daybreak.model.config import GPTConfig

SHAPE = GPTConfig(context_length=64, n_layer=2, n_head=2, d_model=64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_pool_begins_with_zeros_that_can_be_written(dtype: torch.dtype) -> None:
    pages = Pages(SHAPE, 100, dtype=dtype)
    for each in (pages.keys, pages.values):
        assert each.shape == (2, 2, 112, 32)
        assert each.dtype == dtype
        assert each.is_contiguous()
        assert each.data_ptr() % 64 == 0
        assert not each.any()
        each.fill_(1.0)
        assert bool((each == 1).all())
    pages.keys.zero_()
    assert bool((pages.values == 1).all())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells in this way what a process holds")
def test_memory_is_taken_as_it_is_used() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    pages = Pages(SHAPE, 1_000_000)  # 1 GB
    assert resident() - before < 100e6
    pages.keys[0, 0].fill_(1.0)
    pages.keys[:, :, :16] = 1.0
    assert 100e6 < resident() - before < 300e6

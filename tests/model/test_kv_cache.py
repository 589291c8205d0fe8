"""A cache that is spread: each copy goes on as the sequence that it is a copy of would have alone."""

import pytest
import torch

from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.model.kv_cache import KVCache

CONFIG = GPTConfig(vocab_size=30, context_length=16, n_layer=2, n_head=2, d_model=8, init_std=0.5)


@torch.no_grad()
def test_copies_go_on_each_in_its_own_way():
    model = build(CONFIG, 0).eval()
    draw = torch.Generator().manual_seed(1)
    begun = torch.randint(0, 30, (2, 5), generator=draw)
    further = torch.randint(0, 30, (5, 3), generator=draw)
    rows = torch.tensor([1, 0, 0, 1, 1])
    cache = KVCache(CONFIG, 2, 5)
    model(begun, cache)
    spread = cache.spread(rows, 8)
    assert (spread.length, spread.capacity) == (5, 8)
    got = model(further, spread)
    assert torch.allclose(got, model(torch.cat([begun[rows], further], dim=1))[:, 5:], atol=1e-5)
    assert cache.length == 5  # the one it came from is as it was
    assert torch.allclose(
        model(further[:2], cache.spread(torch.tensor([0, 1]), 8)), model(torch.cat([begun, further[:2]], dim=1))[:, 5:], atol=1e-5
    )
    with pytest.raises(ValueError, match="at most 8 tokens, came 9"):
        model(further[:, :1], spread)

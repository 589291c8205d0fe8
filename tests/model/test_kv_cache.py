"""The cache: reading in pieces equals reading at once, in dense and in banded layers, and a rewound one forgets."""

import dataclasses
import itertools
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daybreak.inference.generate import generate
from daybreak.inference.growing import GrowingCache
from daybreak.inference.sampling import Sampling
from daybreak.model.attention import KERNELS, blocked
from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.model.kv_cache import KVCache

CONFIG = GPTConfig(vocab_size=50, context_length=12, n_layer=3, n_head=2, d_model=16, init_std=0.3)
ALL = {**KERNELS, "blocked": blocked}
patterns = st.sampled_from([("dense",), ("dense", "banded"), ("banded",), ("banded", "banded", "dense")])
bands = st.sampled_from([1, 2, 3, 5, 11, 12, 40])


@cache
def model_of(pattern=("dense",), band=3, kernel="auto"):
    return build(dataclasses.replace(CONFIG, attention_pattern=pattern, attention_band=band), seed=1, kernel=ALL[kernel]).eval()


def ids(B, T, seed=0):
    return torch.randint(CONFIG.tokens, (B, T), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kernel", ALL)
@settings(max_examples=25)
@given(cuts=st.sets(st.integers(1, 11)), B=st.integers(1, 3), pattern=patterns, band=bands)
def test_reading_in_pieces_with_a_cache_equals_reading_at_once(kernel, cuts, B, pattern, band):
    model, tokens = model_of(pattern, band, kernel), ids(B, 12)
    kv_cache = KVCache(model.config, batch=B)
    edges = [0, *sorted(cuts), 12]
    with torch.no_grad():
        pieces = [model(tokens[:, start:end], kv_cache) for start, end in itertools.pairwise(edges)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), rtol=1e-4, atol=1e-5)
    assert kv_cache.length == 12


@settings(max_examples=25)
@given(cuts=st.sets(st.integers(1, 11)), B=st.integers(1, 3), pattern=patterns, band=bands, back=st.integers(0, 3))
def test_a_fixed_cache_holds_what_a_growing_one_does(cuts, B, pattern, band, back):
    """The plainest cache there is, and some tokens taken back between the pieces."""
    model, tokens = model_of(pattern, band), ids(B, 12)
    fixed, growing = KVCache(model.config, batch=B), GrowingCache()
    edges = [0, *sorted(cuts), 12]
    with torch.no_grad():
        for _, end in itertools.pairwise(edges):
            torch.testing.assert_close(
                model(tokens[:, fixed.length : end], fixed), model(tokens[:, growing.length : end], growing), rtol=1e-4, atol=1e-5
            )
            if end < 12:
                for each in (fixed, growing):
                    each.rewind(max(0, end - back))
    assert fixed.length == growing.length == 12


@settings(max_examples=25)
@given(prompt=st.integers(1, 12), B=st.integers(1, 2), pattern=patterns, band=bands)
def test_it_writes_the_same_tokens_as_without_a_cache(prompt, B, pattern, band):
    """Beyond the context too, where the oldest half is forgotten and the rest is read again."""
    model = model_of(pattern, band)
    greedy = Sampling(temperature=0)
    cached, uncached = (
        torch.stack(list(generate(model, ids(B, prompt), max_tokens=20, context_length=12, sampling=greedy, kv_cache=kv_cache)))
        for kv_cache in (KVCache(model.config, batch=B), None)
    )
    assert torch.equal(cached, uncached)


@settings(max_examples=25)
@given(pattern=patterns, band=bands, read=st.integers(1, 11), kept=st.integers(0, 11))
def test_a_rewound_cache_is_as_one_that_never_went_on(pattern, band, read, kept):
    model, tokens, kept = model_of(pattern, band), ids(1, read), min(kept, read)
    kv_cache = KVCache(model.config)
    with torch.no_grad():
        model(tokens, kv_cache)
        kv_cache.rewind(kept)
        assert kv_cache.length == kept
        other = torch.cat([tokens[:, :kept], ids(1, 12 - kept, seed=7)], dim=1)
        torch.testing.assert_close(model(other[:, kept:], kv_cache), model(other)[:, kept:], rtol=1e-4, atol=1e-5)
    kv_cache.rewind()
    assert kv_cache.length == 0


@given(read=st.integers(0, 11), T=st.integers(1, 12), band=st.none() | st.integers(1, 20))
def test_a_banded_layer_reads_its_band_and_no_more(read, T, band):
    T = min(T, 12 - read)
    kv_cache = KVCache(CONFIG)
    rows = torch.arange(12.0).view(1, 1, 12, 1).expand(1, 2, 12, 8)  # each key says its position
    for layer in range(CONFIG.n_layer):
        kv_cache.extend(layer, rows[:, :, :read], -rows[:, :, :read])
    kv_cache.advance(read)
    keys, values = kv_cache.extend(1, rows[:, :, read : read + T], -rows[:, :, read : read + T], band)
    first = 0 if band is None else max(0, read - band + 1)
    assert keys[0, 0, :, 0].tolist() == list(range(first, read + T))
    assert torch.equal(values, -keys)
    assert keys.untyped_storage().data_ptr() == kv_cache._keys.untyped_storage().data_ptr()  # seen, not copied


def test_a_cache_names_what_does_not_fit():
    model = model_of()
    kv_cache = KVCache(model.config, capacity=5)
    with pytest.raises(ValueError, match="at most 5 tokens, came 6"):
        model(ids(1, 6), kv_cache)
    with pytest.raises(ValueError, match="wanted a batch of 1, for which it was made, came 2"):
        model(ids(2, 3), kv_cache)
    model(ids(1, 3), kv_cache)
    for length in (-1, 4):
        with pytest.raises(ValueError, match=f"a length from 0 to 3, came {length}"):
            kv_cache.rewind(length)

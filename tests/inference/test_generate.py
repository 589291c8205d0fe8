"""Generation: with a cache the same as without, past the end of the context, from any predictor."""

import dataclasses

import plain_writing
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daybreak.inference.generate import generate, keyed
from daybreak.inference.requests import Request
from daybreak.inference.sampling import Sampling
from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.model.kv_cache import KVCache

CONFIG = GPTConfig(vocab_size=50, context_length=10, n_layer=2, n_head=2, d_model=16, init_std=0.3)
MODEL = build(CONFIG, 1).eval()
GREEDY = Sampling(temperature=0)


def written(prompt, max_tokens, cached, sampling=GREEDY, seed=0, model=MODEL):
    tokens = generate(
        model,
        torch.tensor(prompt),
        max_tokens=max_tokens,
        context_length=CONFIG.context_length,
        sampling=sampling,
        kv_cache=KVCache(CONFIG, batch=len(prompt)) if cached else None,
        generator=torch.Generator().manual_seed(seed),
    )
    return [token.tolist() for token in tokens]


@settings(max_examples=25)
@given(
    prompt=st.integers(1, 25).flatmap(lambda T: st.lists(st.lists(st.integers(0, 49), min_size=T, max_size=T), min_size=1, max_size=3)),
    max_tokens=st.integers(0, 30),
    temperature=st.sampled_from([0.0, 1.0]),
)
def test_the_cache_changes_nothing(prompt, max_tokens, temperature):
    sampling = Sampling(temperature)
    plain = written(prompt, max_tokens, cached=False, sampling=sampling)
    assert written(prompt, max_tokens, cached=True, sampling=sampling) == plain
    assert len(plain) == max_tokens
    assert all(len(tokens) == len(prompt) and 0 <= min(tokens) <= max(tokens) < 50 for tokens in plain)


def test_greedy_tokens_are_the_likeliest_one_after_another():
    text = [3, 1]
    for token in written([[3, 1]], 8, cached=True):
        with torch.no_grad():
            assert token == [int(MODEL(torch.tensor([text]))[0, -1].argmax())]
        text += token


def test_text_that_outgrows_the_context_keeps_its_newer_half():
    seen = []

    def predictor(tokens, kv_cache):
        seen.append(tokens[0].tolist())
        return torch.nn.functional.one_hot((tokens + 1) % 50, 50).float()  # counts on

    prompt = [list(range(8))]
    list(generate(predictor, torch.tensor(prompt), max_tokens=6, context_length=10, sampling=GREEDY))
    assert seen == [
        list(range(8)),
        list(range(9)),
        list(range(10)),
        list(range(6, 11)),  # the newest five of eleven
        list(range(6, 12)),
        list(range(6, 13)),
    ]


def test_with_a_cache_each_step_reads_one_token():
    lengths = []

    def predictor(tokens, kv_cache):
        lengths.append(tokens.shape[1])
        return MODEL(tokens, kv_cache)

    written([[1, 2, 3]], 10, cached=True, model=predictor)
    assert lengths == [3, 1, 1, 1, 1, 1, 1, 1, 5, 1]


def test_a_context_of_one_token():
    config = dataclasses.replace(CONFIG, context_length=1)
    model = build(config, 0).eval()
    runs = [
        [int(token) for token in generate(model, torch.tensor([[4, 5]]), max_tokens=5, context_length=1, sampling=GREEDY, kv_cache=cache)]
        for cache in (None, KVCache(config))
    ]
    assert runs[0] == runs[1]


def test_a_cache_that_was_used_before_is_emptied():
    cache = KVCache(CONFIG)
    with torch.no_grad():
        MODEL(torch.tensor([[7, 7, 7]]), cache)
    again = generate(MODEL, torch.tensor([[1, 2]]), max_tokens=5, context_length=10, sampling=GREEDY, kv_cache=cache)
    assert [token.tolist() for token in again] == written([[1, 2]], 5, cached=True)


def test_an_empty_prompt_is_an_error_with_the_way_out():
    with pytest.raises(ValueError, match="at least one token, came none; begin with the end-of-text token"):
        next(generate(MODEL, torch.zeros(1, 0, dtype=torch.long), max_tokens=1, context_length=10))


def test_the_same_seed_writes_the_same_and_another_another():
    first, again, other = (written([[1, 2]], 20, cached=True, sampling=Sampling(1.0), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_rows_of_a_batch_do_not_meet():
    together = written([[1, 2, 3], [9, 8, 7]], 12, cached=True)
    alone = [written([row], 12, cached=True) for row in ([1, 2, 3], [9, 8, 7])]
    assert together == [[a[0], b[0]] for a, b in zip(*alone, strict=True)]


def test_any_callable_predicts_and_the_rows_that_pad_the_vocabulary_are_never_drawn():
    drawn = {
        token[0] for token in written([[0]], 300, cached=False, sampling=Sampling(temperature=50.0), model=lambda t, c: MODEL(t[:, -1:]))
    }
    assert len(drawn) > 40
    assert max(drawn) < 50


def test_no_graph_is_kept_and_the_caller_s_gradients_stay_on():
    for token in generate(lambda tokens, cache: MODEL(tokens), torch.tensor([[1]]), max_tokens=2, context_length=10):
        assert torch.is_grad_enabled()
        assert not token.requires_grad


@settings(max_examples=20)
@given(seed=st.integers(0, 9), prompt=st.lists(st.integers(0, 48), min_size=1, max_size=40), which=st.integers(0, 3))
def test_keyed_by_seed_and_position_it_writes_what_an_engine_would(seed, prompt, which):
    sampling = [GREEDY, Sampling(), Sampling(0.8, 20, 0.9, min_p=0.01), Sampling(1.2, repetition_penalty=1.2, presence_penalty=1.0)][which]
    model = plain_writing.model_of()
    tokens, _, _ = plain_writing.plainly(Request(tuple(prompt), 8, sampling, seed, ignore_eot=True), model)
    for kv_cache in (None, KVCache(model.config)):
        chooser = keyed(sampling, seed, len(prompt))
        drawn = generate(model, torch.tensor([prompt]), max_tokens=8, context_length=48, kv_cache=kv_cache, chooser=chooser)
        assert [int(token) for token in drawn] == tokens[len(prompt) :]


def test_a_look_back_sees_the_text_when_the_context_is_forgotten():
    """Ten tokens fit; with a penalty so large no token comes twice, whatever was forgotten."""
    chooser = keyed(Sampling(0, presence_penalty=1e6), 0, 1)
    drawn = generate(MODEL, torch.tensor([[1]]), max_tokens=40, context_length=10, kv_cache=KVCache(CONFIG), chooser=chooser)
    tokens = [int(token) for token in drawn]
    assert len(set(tokens)) == 40

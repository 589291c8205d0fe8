"""Speculation: the text is the same with it and without, whatever is guessed; and guesses that are right are taken."""

import copy
from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_writing import CONFIG, EOT, model_of, plainly, token_bytes

from daybreak.inference.engine import Engine
from daybreak.inference.requests import Limits, Request
from daybreak.inference.sampling import Sampling
from daybreak.inference.speculation import PromptLookup, draft_model
from daybreak.model.init import build

SAMPLINGS = [Sampling(0), Sampling(), Sampling(0.7, 10, 0.9), Sampling(1.0, repetition_penalty=1.3, frequency_penalty=0.2)]


def told(model, requests, speculator, **limits):
    heard = [[] for _ in requests]
    engine = Engine(model, token_bytes, EOT, Limits(**limits), speculator=speculator)
    for request, one in zip(requests, heard, strict=True):
        engine.submit(request, one.append)
    while engine.step():
        pass
    assert engine.pages.held == 0
    return heard, engine.stats


requests = st.builds(
    Request,
    tokens=st.lists(st.integers(0, 5), min_size=1, max_size=40).map(tuple),  # few different ones, so that n-grams come again
    max_tokens=st.integers(1, 30),
    sampling=st.sampled_from(SAMPLINGS),
    seed=st.integers(0, 3),
    stop=st.sampled_from([(), ("ab",)]),
    logprobs=st.sampled_from([None, 2]),
    ignore_eot=st.booleans(),
)


def always_wrong(request):
    return lambda tokens, most: [(tokens[-1] + 1) % 49] * most


def by_heart(model):
    """Knows what will be written."""

    def speculator(request):
        tokens, _, _ = plainly(request, model)
        return lambda so_far, most: tokens[len(so_far) : len(so_far) + most]

    return speculator


@settings(max_examples=25)
@given(
    asked=st.lists(requests, min_size=1, max_size=3),
    pattern=st.sampled_from([("dense",), ("dense", "banded")]),
    which=st.sampled_from(["lookup", "draft", "itself", "wrong", "right"]),
    cache_tokens=st.sampled_from([48, 200]),
)
def test_the_text_is_the_same_whatever_is_guessed(asked, pattern, which, cache_tokens):
    """Greedy and sampled: each token is drawn with the number of its seed and position."""
    model = model_of(pattern)
    other = build(CONFIG, 2).eval()
    speculators = {"lookup": PromptLookup, "draft": draft_model(other, CONFIG), "itself": draft_model(model, CONFIG, 6)}
    speculator = {**speculators, "wrong": always_wrong, "right": by_heart(model)}[which]
    heard, stats = told(model, asked, speculator, cache_tokens=cache_tokens)
    for request, one in zip(asked, heard, strict=True):
        tokens, text, finish = plainly(request, model)
        assert [emitted.token for emitted in one] == tokens[len(request.tokens) :]
        assert ("".join(emitted.text for emitted in one), one[-1].finish) == (text, finish)
        if request.logprobs:
            with torch.no_grad():
                logprobs = model(torch.tensor([tokens[:48]]))[0].log_softmax(-1)
            for at, emitted in enumerate(one, start=len(request.tokens) - 1):
                assert abs(emitted.logprob - float(logprobs[at, emitted.token])) < 1e-4
    if which == "wrong":
        assert stats.accepted_tokens <= stats.drafted_tokens // 4


def test_a_model_that_drafts_for_itself_is_always_right():
    request = Request((1, 2, 3), 40, Sampling(1.0), 5, ignore_eot=True)
    _, stats = told(model_of(), [request], draft_model(model_of(), CONFIG, 4))
    assert stats.accepted_tokens == stats.drafted_tokens > 20
    assert stats.steps < 12


def test_right_guesses_save_steps_and_many_texts_are_not_guessed_for():
    model, request = model_of(), Request((1, 2, 3), 30, Sampling(0), ignore_eot=True)
    _, without = told(model, [request], None)
    _, right = told(model, [request], by_heart(model))
    assert without.steps == 30
    assert right.steps <= 7
    _, many = told(model, [request] * 6, by_heart(model))
    assert many.drafted_tokens < 6 * 30
    engine = Engine(model, token_bytes, EOT, speculator=by_heart(model), speculate_rows=0)
    engine.submit(request, lambda emitted: None)
    while engine.step():
        pass
    assert engine.stats.drafted_tokens == 0


def test_sampled_tokens_come_as_often_as_without_guesses():
    """Chi-square of the first two tokens over many seeds, at one in a million, where a model that errs guesses the second."""
    model, near = model_of(), copy.deepcopy(model_of())
    with torch.no_grad():
        near.token_embedding.weight += 0.1 * torch.randn(near.token_embedding.weight.shape, generator=torch.Generator().manual_seed(0))
    draft, prompt, n = draft_model(near, CONFIG, 3), (4, 8), 400
    asked = [Request(prompt, 3, Sampling(0.6, 3), seed, ignore_eot=True) for seed in range(n)]
    heard, stats = told(model, asked, draft, running=4, waiting=n)
    assert stats.drafted_tokens == n
    assert 0 < stats.accepted_tokens < n

    def likely(tokens):
        with torch.no_grad():
            values, best = (model(torch.tensor([tokens]))[0, -1] / 0.6).topk(3)
        return list(zip(best.tolist(), values.softmax(-1).tolist(), strict=True))

    expected = {(a, b): p * q * n for a, p in likely(prompt) for b, q in likely((*prompt, a))}
    seen = Counter((one[0].token, one[1].token) for one in heard)
    assert seen.keys() <= expected.keys()
    assert sum((seen[pair] - count) ** 2 / count for pair, count in expected.items()) < 43  # 8 degrees of freedom


@given(tokens=st.lists(st.integers(0, 3), min_size=1, max_size=30), cuts=st.sets(st.integers(1, 29)), most=st.integers(1, 5))
def test_prompt_lookup_says_what_followed_last_time(tokens, cuts, most):
    lookup = PromptLookup(None)
    for end in sorted({*cuts, len(tokens)}):
        so_far = tokens[:end]
        if end > len(tokens):
            continue
        expected = []
        for size in range(8, 0, -1):
            starts = [at for at in range(size, end) if so_far[at - size : at] == so_far[-size:]] if size <= end else []
            if starts:
                expected = so_far[starts[-1] : starts[-1] + min(most, size)]
                break
        assert list(lookup(so_far, most)) == expected

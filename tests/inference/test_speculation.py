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


def plain_lookup(tokens, most):
    """What PromptLookup says, asked for the first time: everything looked up anew in the text itself."""

    def last_followers(ending, before):
        """For the longest end of `ending` that is followed within tokens[:before]: its size, its last follower, how often in a row."""
        for size in range(min(8, len(ending)), 0, -1):
            followers = [tokens[at] for at in range(size, before) if tokens[at - size : at] == ending[-size:]]
            if followers:
                times = next((n for n in range(len(followers)) if followers[-1 - n] != followers[-1]), len(followers))
                return followers[-1], (size, min(times, 3))
        return None

    right, asked = Counter(), Counter()
    for at in range(1, len(tokens)):
        if found := last_followers(tokens[:at], at):
            asked[found[1]] += 1
            right[found[1]] += found[0] == tokens[at]
    guess, chance = [], 1.0
    while len(guess) < most and (found := last_followers(tokens + guess, len(tokens))):
        chance *= (right[found[1]] + 1) / (asked[found[1]] + 2)
        if chance < (0.03 if guess else 0.1):
            break
        guess.append(found[0])
    return guess


@given(tokens=st.lists(st.integers(0, 3), min_size=1, max_size=30), cuts=st.sets(st.integers(1, 29)), most=st.integers(0, 8))
def test_prompt_lookup_says_what_followed_last_time_as_far_as_that_pays(tokens, cuts, most):
    """Asked again and again while the text grows, it says what it would if it were asked for the first time."""
    lookup = PromptLookup(None)
    for end in sorted({cut for cut in cuts if cut < len(tokens)} | {len(tokens)}):
        assert list(lookup(tokens[:end], most)) == plain_lookup(tokens[:end], most)


def test_prompt_lookup_guesses_where_it_has_been_right_and_holds_back_where_not():
    lookup = PromptLookup(None)
    assert list(lookup([5, 6, 7, 8, 9] * 4, 8)) == [5, 6, 7, 8, 9, 5, 6, 7]
    drawn = torch.randint(0, 20, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    lookup = PromptLookup(None)
    assert sum(len(lookup(drawn[:end], 8)) > 0 for end in range(200, 400)) < 20  # followed at random, one in twenty


def test_a_draft_guesses_fewer_tokens_where_it_is_wrong():
    request = Request((1, 2, 3), 40, Sampling(0), 5, ignore_eot=True)
    _, other = told(model_of(), [request], draft_model(build(CONFIG, 2).eval(), CONFIG, 6))
    assert other.drafted_tokens < 2 * other.steps

"""The engine: whatever comes together, each text is what it would be alone; queues, pages and failures."""

import itertools
import math
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_writing import CONFIG, EOT, model_of, plainly, token_bytes

from daybreak.config import ConfigError
from daybreak.inference.engine import Engine
from daybreak.inference.requests import Busy, Limits, Request
from daybreak.inference.sampling import Sampling
from daybreak.model.kv_cache import PAGE

GREEDY = Sampling(0)
SAMPLINGS = [GREEDY, Sampling(), Sampling(0.8, 20, 0.9, min_p=0.01), Sampling(1.2, typical_p=0.9, repetition_penalty=1.2)]
SAMPLINGS += [Sampling(0, presence_penalty=1.0, frequency_penalty=0.5), Sampling(logit_bias=((3, 2.0), (EOT, -100.0)))]

prompts = st.lists(st.integers(0, 48), min_size=1, max_size=47) | st.sampled_from([tuple(range(n)) for n in (1, 15, 16, 17, 33, 48)])
requests = st.builds(
    Request,
    tokens=prompts.map(tuple),
    max_tokens=st.integers(1, 24),
    sampling=st.sampled_from(SAMPLINGS),
    seed=st.integers(0, 3),
    stop=st.sampled_from([(), ("ab",), ("é", "ca"), ("dddd", "b")]),
    ignore_eot=st.booleans(),
)


def engine_of(model, speculator=None, reuse=True, **limits):
    return Engine(model, token_bytes, EOT, Limits(**limits), speculator=speculator, reuse=reuse)


class Heard(list):
    """What a request was told."""

    @property
    def text(self):
        return "".join(one.text for one in self)

    @property
    def tokens(self):
        return [one.token for one in self if one.token is not None]

    @property
    def finish(self):
        assert [one.finish for one in self[:-1]] == [None] * (len(self) - 1)
        return self[-1].finish


def written(engine, *asked):
    """All at once, until all are done."""
    heard = [Heard() for _ in asked]
    for request, one in zip(asked, heard, strict=True):
        engine.submit(request, one.append)
    steps = 0
    while engine.step():
        assert (steps := steps + 1) < 3000
    assert engine.pages.held == 0
    return heard


@settings(max_examples=40, deadline=None)
@given(
    asked=st.lists(requests, min_size=1, max_size=6),
    waits=st.lists(st.integers(0, 4), min_size=6, max_size=6),
    pattern=st.sampled_from([("dense",), ("dense", "banded"), ("banded",)]),
    running=st.integers(1, 6),
    step_tokens=st.sampled_from([1, 7, 16, 100]),
    cache_tokens=st.sampled_from([48, 80, 1000]),
    reuse=st.booleans(),
)
def test_each_text_is_what_it_would_be_alone(asked, waits, pattern, running, step_tokens, cache_tokens, reuse):
    """Batched, chunked, paged, preempted, begun while others are under way: equal to the token to a text read anew each time."""
    model = model_of(pattern)
    engine = engine_of(model, running=running, step_tokens=step_tokens, cache_tokens=cache_tokens, reuse=reuse)
    heard = [Heard() for _ in asked]
    for request, one, wait in zip(asked, heard, waits, strict=False):
        engine.submit(request, one.append)
        for _ in range(wait):
            engine.step()
    while engine.step():
        pass
    for request, one in zip(asked, heard, strict=True):
        tokens, text, finish = plainly(request, model)
        assert one.tokens == tokens[len(request.tokens) :]
        assert (one.text, one.finish) == (text, finish)
    assert engine.pages.held == 0
    assert engine.stats.written_tokens == sum(len(one.tokens) for one in heard)


def test_what_has_begun_alike_is_read_once_and_shared():
    model, prompt = model_of(), tuple(range(40))
    engine = engine_of(model)
    first, *others = written(engine, Request((*prompt, 1), 4, GREEDY)), *[Request((*prompt, n), 4, GREEDY) for n in (1, 2, 3)]
    tickets, heard = [], [Heard() for _ in others]
    for request, one in zip(others, heard, strict=True):
        tickets.append(engine.submit(request, one.append))
    engine.step()
    assert [ticket.reused for ticket in tickets] == [32] * 3
    assert engine.pages.held == 2 + 3  # two shared, one of its own for each
    while engine.step():
        pass
    assert heard[0].tokens == first[0].tokens
    assert [one.tokens for one in heard] == [plainly(request, model)[0][41:] for request in others]
    assert engine.stats.reused_tokens == 96


def test_where_the_cache_is_full_the_youngest_waits_and_is_read_again():
    model = model_of()
    engine = engine_of(model, cache_tokens=64)
    asked = [Request((n,) * 14, 30, GREEDY, ignore_eot=True) for n in range(4)]
    heard = written(engine, *asked)
    assert engine.stats.preempted > 0
    assert [one.tokens for one in heard] == [plainly(request, model)[0][14:] for request in asked]


def test_first_come_first_served_and_none_starves():
    engine, ends = engine_of(model_of(), running=2), []
    for n in range(12):
        engine.submit(Request((n,), 3, GREEDY, ignore_eot=True), lambda emitted, n=n: emitted.finish and ends.append(n))
    while engine.step():
        pass
    assert ends == sorted(ends)


def test_a_long_prompt_is_read_in_pieces_between_which_others_write():
    engine, order = engine_of(model_of(), step_tokens=17), []
    engine.submit(Request((1,), 8, GREEDY, ignore_eot=True), lambda emitted: order.append("short"))
    engine.step()
    engine.submit(Request(tuple(range(47)), 1, GREEDY), lambda emitted: order.append("long"))
    while engine.step():
        pass
    assert order[:5] == ["short"] * 3 + ["short", "long"] or order.index("long") == 3
    assert len(order) == 9


def test_the_queue_is_bounded():
    engine = engine_of(model_of(), running=1, waiting=2)
    request = Request((1,), 5, GREEDY)
    for _ in range(2):
        engine.submit(request, lambda emitted: None)
    with pytest.raises(Busy, match="2 requests wait already"):
        engine.submit(request, lambda emitted: None)
    engine.step()
    engine.submit(request, lambda emitted: None)
    assert (engine.stats.running, engine.stats.waiting) == (1, 2)


def test_who_cancels_hears_no_more_within_the_step():
    engine = engine_of(model_of())
    heard, other = Heard(), Heard()
    ticket = engine.submit(Request((1,), 40, GREEDY, ignore_eot=True), heard.append)
    engine.submit(Request((2,), 6, GREEDY, ignore_eot=True), other.append)
    engine.step()
    ticket.cancel()
    while engine.step():
        pass
    assert len(heard.tokens) == 1
    assert (heard.finish, ticket.finish, other.finish) == ("cancelled", "cancelled", "length")
    assert ticket.wait(0)
    assert len(other.tokens) == 6
    assert engine.stats.finished == (("cancelled", 1), ("length", 1))


def test_who_waits_may_cancel_too_and_a_listener_that_raises_has_gone_away():
    engine = engine_of(model_of(), running=1)

    def gone(emitted):
        raise ConnectionError

    heard = Heard()
    broken = engine.submit(Request((1,), 40, GREEDY), gone)
    waiting = engine.submit(Request((1,), 40, GREEDY), heard.append)
    waiting.cancel()
    assert not engine.step()
    assert (broken.finish, waiting.finish, heard.finish) == ("cancelled", "cancelled", "cancelled")
    assert engine.pages.held == 0


@pytest.mark.parametrize("prompt", [1, 15, 16, 17, 40, 48])
@pytest.mark.parametrize("step_tokens", [5, 100])
def test_log_probabilities_are_the_model_s_own(prompt, step_tokens):
    model, tokens = model_of(), tuple((7 * n) % 49 for n in range(prompt))
    engine = engine_of(model, step_tokens=step_tokens)
    request = Request(tokens, 5, Sampling(0.7, 5, logit_bias=((2, 1.0),)), 3, (), 3, prompt_logprobs=True, ignore_eot=True)
    for _ in range(2):  # the second time its pages are known
        [heard] = written(engine, request)
        text = [*tokens, *heard.tokens]
        with torch.no_grad():
            logprobs = model(torch.tensor([text[: CONFIG.context_length]]))[0].log_softmax(-1)
        told = [*heard[0].prompt, *heard]
        assert (told[0].token, told[0].logprob, told[0].top) == (tokens[0], None, ())
        assert [one.token for one in told] == text
        for one, row in zip(told[1:], logprobs, strict=False):
            assert one.logprob == pytest.approx(float(row[one.token]), abs=1e-4)
            values, indices = row.topk(3)
            assert [token for token, _ in one.top] == indices.tolist()
            assert [value for _, value in one.top] == pytest.approx(values.tolist(), abs=1e-4)
        assert all(one.prompt == () for one in heard[1:])


def test_a_prompt_is_scored_without_a_token_written():
    engine = engine_of(model_of())
    [heard] = written(engine, Request((1, 2, 3), 0, GREEDY, logprobs=0, prompt_logprobs=True))
    [only] = heard
    assert (only.token, only.finish, only.text, len(only.prompt)) == (None, "length", "", 3)
    [heard] = written(engine, Request((1, 2, 3), 0, GREEDY))
    assert (heard.finish, heard.tokens, heard[0].prompt) == ("length", [], ())


def test_nothing_is_told_that_was_not_asked_for():
    [heard] = written(engine_of(model_of()), Request((1,), 3, GREEDY, ignore_eot=True))
    assert [(one.logprob, one.top, one.prompt) for one in heard] == [(None, (), ())] * 3


def test_a_broken_text_fails_alone():
    """One row's logits are no numbers, the others go on."""
    model = model_of()

    class Breaks(torch.nn.Module):
        config, token_embedding, cache_dtype = model.config, model.token_embedding, model.cache_dtype

        def forward(self, tokens, cache, unembed):
            return model(tokens, cache, unembed).masked_fill((tokens[0] == 13)[: unembed(model.embed(tokens)[0]).shape[1], None], math.nan)

        unembed = staticmethod(model.unembed)

    engine = engine_of(Breaks())
    good, bad = written(engine, Request((1,), 4, GREEDY, ignore_eot=True), Request((13,), 4, GREEDY, ignore_eot=True))
    assert good.finish == "length"
    assert (bad.finish, bad.tokens) == ("failed", [])
    assert "predicts NaN or infinity" in bad[0].problem


def test_a_failing_pass_is_told_and_the_engine_goes_on():
    model, calls = model_of(), itertools.count()

    class Fails(torch.nn.Module):
        config, token_embedding, cache_dtype = model.config, model.token_embedding, model.cache_dtype
        unembed = staticmethod(model.unembed)

        def forward(self, *given):
            if next(calls) == 1:
                raise MemoryError("no room\nfor more")
            return model(*given)

    engine = engine_of(Fails())
    [first] = written(engine, Request((1,), 4, GREEDY, ignore_eot=True))
    assert (first.finish, first[-1].problem, len(first.tokens)) == ("failed", "no room", 1)
    [again] = written(engine, Request((1,), 4, GREEDY, ignore_eot=True))
    assert again.finish == "length"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"tokens": ()}, "tokens: wanted at least one token, came none; begin with the end-of-text token"),
        ({"tokens": (1,) * 49}, "tokens: wanted at most the model's context of 48, came 49"),
        ({"tokens": (1, 50)}, "tokens: wanted ids from 0 to 49, came 50"),
        ({"tokens": (-1,)}, "tokens: wanted ids from 0 to 49, came -1"),
        ({"max_tokens": -1}, "max_tokens: wanted 0 or more, came -1"),
        ({"seed": -1}, "seed: wanted 0 or more and less than 2^63, came -1"),
        ({"stop": ("a", "")}, "stop: wanted strings of at least one character, came an empty one"),
        ({"logprobs": 101}, "logprobs: wanted 0 to 100 or none, came 101"),
        ({"sampling": Sampling(top_p=0)}, "sampling.top_p: wanted more than 0"),
    ],
)
def test_impossible_requests_are_named(wrong, told):
    with pytest.raises(ConfigError, match=told.replace("(", r"\(").replace("^", r"\^")):
        engine_of(model_of()).submit(Request(**{"tokens": (1,), **wrong}), print)


def test_it_runs_in_a_thread_of_its_own_and_is_asked_from_many():
    engine, stop = engine_of(model_of()), threading.Event()
    runner = threading.Thread(target=engine.run_forever, args=(stop,))
    runner.start()
    heard = [Heard() for _ in range(16)]
    tickets = []

    def ask(n):
        tickets.append(engine.submit(Request((n, 5), 6, Sampling(), n, ignore_eot=True), heard[n].append))

    askers = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert all(ticket.wait(30) for ticket in tickets)
    left = engine.submit(Request((1,), 40, GREEDY, ignore_eot=True), lambda emitted: None)
    stop.set()
    runner.join(30)
    assert left.wait(0)
    for n, one in enumerate(heard):
        assert one.tokens == plainly(Request((n, 5), 6, Sampling(), n, ignore_eot=True), model_of())[0][2:]


def test_pages_are_sixteen_tokens_and_the_oldest_forgotten_go_first():
    engine = engine_of(model_of(), cache_tokens=64)
    assert (PAGE, engine.pages.count) == (16, 4)
    for n in range(6):
        written(engine, Request((n,) * 17, 1, GREEDY))
    reused = []
    for n in (5, 4, 3, 2, 1, 0):
        ticket = engine.submit(Request((n,) * 17, 1, GREEDY), lambda emitted: None)
        while engine.step():
            pass
        reused.append(ticket.reused)
    assert reused[0] == reused[1] == 16
    assert reused[-1] == 0

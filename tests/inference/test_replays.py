"""Recorded steps of texts in pages say what launched ones say, whatever comes together; on a GPU they are CUDA graphs."""

import copy
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_writing import CONFIG, EOT, model_of, plainly, token_bytes

from daybreak.inference.engine import Engine
from daybreak.inference.graphs import cuda_graphs
from daybreak.inference.paged import PagedCache
from daybreak.inference.pages import Pages, Row
from daybreak.inference.replays import MOST, Replays
from daybreak.inference.requests import Limits, Request
from daybreak.inference.sampling import Sampling
from daybreak.inference.speculation import PromptLookup
from daybreak.model.init import build

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]
KINDS = {
    "gpt2": {},
    "banded": {"attention_pattern": ("dense", "banded"), "attention_band": 5},
    "modern": {"position": "rotary", "norm": "rmsnorm", "qk_norm": True, "n_kv_head": 1, "value_residual": True, "tied_head": False},
}
requests = st.builds(
    Request,
    tokens=st.lists(st.integers(0, 5), min_size=1, max_size=40).map(tuple),
    max_tokens=st.integers(1, 30),
    sampling=st.sampled_from([Sampling(0), Sampling(), Sampling(0.7, 10, 0.9, repetition_penalty=1.2)]),
    seed=st.integers(0, 3),
    stop=st.sampled_from([(), ("ab",)]),
    ignore_eot=st.booleans(),
)

STEPS = ((1, 5, 2, 40), (3, 1, 1, 1), (1, 1, 1, 1), (30, 0, 20, 0), (1, 0, 0, 0), (9, 9, 9, 37), (7, 1, 30, 22), (5, 1, 1, 40))
"""New tokens of each of four texts."""


def again(work):
    """A recording of the plainest kind."""
    work()
    return work


def recorder(device):
    return cuda_graphs() if device == "cuda" else again


@settings(max_examples=25)
@given(
    asked=st.lists(requests, min_size=1, max_size=5),
    pattern=st.sampled_from([("dense",), ("dense", "banded")]),
    speculator=st.sampled_from([None, PromptLookup]),
    cache_tokens=st.sampled_from([48, 100, 400]),
)
def test_texts_are_the_same_from_recordings(asked, pattern, speculator, cache_tokens):
    model = model_of(pattern)
    engine = Engine(model, token_bytes, EOT, Limits(cache_tokens=cache_tokens), speculator=speculator, record=again)
    heard = [[] for _ in asked]
    for request, one in zip(asked, heard, strict=True):
        engine.submit(request, one.append)
    while engine.step():
        pass
    for request, one in zip(asked, heard, strict=True):
        tokens, text, finish = plainly(request, model)
        assert [emitted.token for emitted in one] == tokens[len(request.tokens) :]
        assert ("".join(emitted.text for emitted in one), one[-1].finish) == (text, finish)
    assert engine.pages.held == 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_a_recorded_step_are_those_of_a_launched_one(kind, device):
    config = dataclasses.replace(CONFIG, context_length=300, **KINDS[kind])
    gpt = build(config, 1).eval().to(device)
    draw = torch.Generator().manual_seed(0)
    texts = torch.randint(50, (4, 300), generator=draw).tolist()
    pages = [Pages(config, 1300, device), Pages(config, 1300, device)]
    rows = [[Row() for _ in texts] for _ in pages]
    replays = Replays(gpt, pages[0], recorder(device))
    with torch.inference_mode():
        for counts in (
            (1, 5, 2, 40),
            (3, 1, 1, 1),
            (1, 1, 1, 1),
            (30, 0, 20, 0),
            (1, 0, 0, 0),
            (9, 9, 9, 37),
            (7, 1, 30, 22),
            (5, 1, 1, 40),
        ):
            told = [(text, count) for text, count in enumerate(counts) if count]
            tokens = [token for text, count in told for token in texts[text][rows[0][text].length :][:count]]
            parts = [[(mine[text], count) for text, count in told] for mine in rows]
            for pool, own in zip(pages, parts, strict=True):
                assert all(pool.extend(row, row.length + count) for row, count in own)
            launched = gpt(torch.tensor([tokens], device=device), PagedCache(pages[1], parts[1]))[0]
            replayed = replays(tokens, parts[0])
            torch.testing.assert_close(replayed, launched, rtol=1e-4, atol=1e-4)
            for row, count in parts[0]:
                row.length += count
    assert max(row.length for row in rows[0]) > 128  # beyond the first window


def test_each_recording_is_made_once_and_only_for_steps_of_few_tokens():
    made, replayed = [], []

    def record(work):
        made.append(len(work()))
        return lambda: (replayed.append(1), work())[1]

    model = model_of()
    engine = Engine(model, token_bytes, EOT, Limits(step_tokens=200), speculator=None, reuse=False, record=record)
    for _ in range(2):
        for seed in range(3):
            engine.submit(Request(tuple(range(40)), 6, Sampling(), seed, ignore_eot=True), lambda emitted: None)
        while engine.step():
            pass
        assert made == [4]  # for three texts; their prompts are too many
    assert len(replayed) == engine.stats.steps - 2
    replays = Replays(model, engine.pages, record)
    assert replays([1] * (MOST + 1), [(Row(), MOST + 1)]) is None


def test_where_nothing_can_be_recorded_the_texts_go_on_as_before():
    def broken(work):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    request, heard = Request((1, 2, 3), 20, Sampling(0), ignore_eot=True), []
    engine = Engine(model_of(), token_bytes, EOT, speculator=None, record=broken)
    engine.submit(request, heard.append)
    with pytest.warns(UserWarning, match=r"are launched kernel by kernel: operation not permitted when stream is capturing$"):
        list(iter(engine.step, False))
    assert [emitted.token for emitted in heard] == plainly(request, model_of())[0][3:]


def test_a_text_that_is_no_number_leaves_the_others_alone():
    model = copy.deepcopy(model_of())
    with torch.no_grad():
        model.token_embedding.weight[48] = float("nan")
    model.head = torch.nn.Linear(16, 50, bias=False)  # as the embedding's rows are no more numbers
    good, bad = Request((1, 2, 3), 10, Sampling(0), ignore_eot=True), Request((48, 2, 3), 10, Sampling(0), ignore_eot=True)
    heard = [[], []]
    engine = Engine(model, token_bytes, EOT, speculator=None, record=again)
    for request, one in zip((bad, good), heard, strict=True):
        engine.submit(request, one.append)
    while engine.step():
        pass
    assert heard[0][-1].finish == "failed"
    assert [emitted.token for emitted in heard[1]] == plainly(good, model)[0][3:]

"""Both fast ways against the plainest: one continuation at a time, its whole context before it, nothing padded, no cache."""

import numpy as np
import pytest
import torch
from evaluation.tasks import CONTEXT, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from daybreak.evaluation.grouping import SHORTEST, groups
from daybreak.evaluation.readers import Reader, reader, whole
from daybreak.evaluation.reading import Reading, rows
from daybreak.evaluation.scoring import score
from daybreak.model.config import GPTConfig
from daybreak.model.init import build

V = 40
MODEL = tiny_model(vocab_size=V)
BANDED = build(
    GPTConfig(
        vocab_size=V,
        context_length=CONTEXT,
        n_layer=2,
        n_head=2,
        d_model=16,
        init_std=0.4,
        attention_pattern=("dense", "banded"),
        attention_band=5,
    ),
    0,
).eval()

ids = st.lists(st.integers(0, V - 1), min_size=1, max_size=40).map(lambda values: np.array(values, dtype=np.int64))
short = st.lists(st.integers(0, V - 1), min_size=1, max_size=6).map(lambda values: np.array(values, dtype=np.int64))
items = st.builds(Reading, st.one_of(short, ids), st.lists(st.one_of(short, ids), min_size=1, max_size=4).map(tuple))


@torch.no_grad()
def plain(reading, model=MODEL, context_length=CONTEXT):
    """[(log-likelihood, greedy)], one sequence after another."""
    found = []
    for tail in reading.continuations:
        total, right = 0.0, True
        for row in rows(reading.context, tail, context_length):
            logits = model(torch.from_numpy(row.ids[None, :-1]))[0].double().log_softmax(-1)
            for at in range(len(row.ids) - 1 - row.scored, len(row.ids) - 1):
                total += float(logits[at, row.ids[at + 1]])
                right &= int(logits[at].argmax()) == row.ids[at + 1]
        found.append((total, right))
    return found


def scored(way, readings, budget, context_length=CONTEXT):
    found = [()] * len(readings)
    for group in groups(readings, context_length, budget, cached=way.new_cache is not None):
        for number, likelihoods in zip(group.numbers, score(way, group, readings, context_length, budget=budget), strict=True):
            assert found[number] == ()
            found[number] = likelihoods
    return found


def check(found, readings, model=MODEL):
    for likelihoods, reading in zip(found, readings, strict=True):
        wanted = plain(reading, model)
        assert [value for value, _ in likelihoods] == pytest.approx([value for value, _ in wanted], rel=1e-4, abs=1e-4)
        assert [right for _, right in likelihoods] == [right for _, right in wanted]


WAYS = {
    "a GPT in halves": reader(MODEL),
    "with a cache": reader(lambda tokens, kv_cache: MODEL(tokens, kv_cache), MODEL.config),
    "whole": whole(MODEL),
}


@pytest.mark.parametrize("name", WAYS)
@settings(max_examples=25)
@given(readings=st.lists(items, min_size=1, max_size=8), budget=st.sampled_from([1, 60, 400, 10_000]))
def test_every_way_is_the_plain_one(name, readings, budget):
    check(scored(WAYS[name], readings, budget), readings)


def test_what_matters_is_among_the_made_items():
    """Contexts that are cut, endings of one token and longer than the context, one token of context."""
    draw = np.random.default_rng(0)

    def some(count):
        return draw.integers(0, V, count)

    readings = [
        Reading(some(60), (some(3), some(9))),  # both cut, each at another place
        Reading(some(CONTEXT - 2), (some(3), some(4))),  # the first fits exactly
        Reading(some(1), (some(1), some(1), some(1))),
        Reading(some(5), (some(1), some(70))),
        Reading(some(1), (some(0),)),
        Reading(some(9), (some(2), some(8), some(4), some(1))),
        Reading(some(9), (some(3), some(3), some(3), some(3))),
    ]
    for way in WAYS.values():
        check(scored(way, readings, 200), readings)
    shared = [number for group in groups(readings, CONTEXT, 200, cached=True) if group.shared for number in group.numbers]
    assert sorted(shared) == [2, 5, 6]


def test_a_banded_model_is_read_alike():
    draw = np.random.default_rng(1)
    readings = [Reading(draw.integers(0, V, 4 + i), tuple(draw.integers(0, V, 1 + k + i % 3) for k in range(4))) for i in range(9)]
    check(scored(reader(BANDED), readings, 120), readings, BANDED)


def test_contexts_are_read_once():
    """For four endings of one context the model reads it one time, and its logits are taken only where a token is predicted."""
    read, unembedded = [], []
    half = reader(MODEL)

    def counting(tokens, kv_cache):
        read.append(tokens.numel())
        return half.read(tokens, kv_cache)

    def logits(states):
        unembedded.append(len(states))
        return half.logits(states)

    readings = [Reading(np.arange(15), tuple(np.arange(6) for _ in range(4)))] * 3
    scored(Reader(counting, logits, half.new_cache, halved=True), readings, 10_000)
    assert sum(read) == 3 * (15 + 4 * 5)
    assert sum(unembedded) == 3 * 4 * 6


@settings(max_examples=10)
@given(readings=st.lists(items, min_size=1, max_size=30), budget=st.sampled_from([100, 500]))
def test_a_predictor_without_a_cache_sees_few_shapes(readings, budget):
    shapes = set()

    def predict(tokens, kv_cache):
        assert kv_cache is None
        shapes.add(tuple(tokens.shape))
        return MODEL(tokens)

    scored(whole(predict), readings, budget)
    assert shapes <= {(max(1, budget // CONTEXT), CONTEXT)}


def test_the_shapes_are_doubles_up_to_the_context():
    draw = np.random.default_rng(0)
    readings = [Reading(draw.integers(0, 9, n), (draw.integers(0, 9, 3),)) for n in range(1, 900)]
    shapes = {group.shape for group in groups(readings, 1000, 4096, cached=False)}
    assert shapes == {(4096 // length, length) for length in (SHORTEST, 128, 256, 512, 1000)}


def test_memory_is_bound_by_the_budget():
    """However many items there are, no forward pass reads more tokens than the budget, where no single sequence is longer."""
    largest = []

    def predict(tokens, kv_cache):
        largest.append(tokens.numel())
        return MODEL(tokens, kv_cache)

    draw = np.random.default_rng(0)
    readings = [Reading(draw.integers(0, V, 8), tuple(draw.integers(0, V, 5) for _ in range(4))) for _ in range(50)]
    for way in (whole(predict), reader(predict, MODEL.config)):
        largest.clear()
        scored(way, readings, 96)
        assert 8 < max(largest) <= 96


def test_a_compiled_model_is_compiled_a_few_times():
    torch._dynamo.reset()
    compiled_shapes = []

    def backend(graph, inputs):
        compiled_shapes.append([tuple(value.shape) for value in inputs if isinstance(value, torch.Tensor)])
        return graph.forward

    compiled = torch.compile(tiny_model(128, V), backend=backend, dynamic=False, fullgraph=True)
    draw = np.random.default_rng(0)
    readings = [Reading(draw.integers(0, V, n), tuple(draw.integers(0, V, 1 + n % 7) for _ in range(4))) for n in range(1, 110, 3)]
    found = scored(whole(compiled), readings, 512, 128)
    assert len(compiled_shapes) == 2
    plainly = scored(whole(tiny_model(128, V)), readings, 512, 128)
    assert [value for row in found for value, _ in row] == pytest.approx([value for row in plainly for value, _ in row], rel=1e-5)

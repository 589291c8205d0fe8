"""Sampling: what top-k and top-p keep, and that tokens come as often as they should."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from daybreak import config
from daybreak.inference.sampling import PredictionFailed, Sampling, choose, keep_top_k, keep_top_p

ROWS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12)


def kept(logits):
    return set(torch.isfinite(logits).nonzero()[:, -1].tolist())


@given(row=ROWS, k=st.integers(1, 15))
def test_top_k_keeps_the_k_largest_and_their_equals(row, k):
    logits = torch.tensor([row])
    result = keep_top_k(logits, k)
    border = sorted(row, reverse=True)[min(k, len(row)) - 1]
    assert kept(result) == {i for i, value in enumerate(row) if value >= border}
    assert all(result[0, i] == logits[0, i] for i in kept(result))


def test_ties_at_the_border_all_stay():
    assert kept(keep_top_k(torch.tensor([[2.0, 1.0, 1.0, 0.0]]), 2)) == {0, 1, 2}


@given(row=ROWS, p=st.floats(0.01, 1.0))
def test_top_p_keeps_the_smallest_set_that_reaches_p(row, p):
    logits = torch.tensor([row])
    probabilities = logits.double().softmax(-1)[0]
    result = kept(keep_top_p(logits, p))
    assert result
    assert all(keep_top_p(logits, p)[0, i] == logits[0, i] for i in result)
    held = sorted((float(probabilities[i]) for i in result), reverse=True)
    left = [float(probabilities[i]) for i in range(len(row)) if i not in result]
    assert sum(held) >= p - 1e-5
    assert sum(held[:-1]) < p + 1e-5  # without its least likely it would not reach p
    assert not left or max(left) <= held[-1] + 1e-9


def test_top_p_of_known_probabilities():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for p, expected in [(0.01, {0}), (0.49, {0}), (0.51, {0, 1}), (0.79, {0, 1}), (0.81, {0, 1, 2}), (0.99, {0, 1, 2, 3})]:
        assert kept(keep_top_p(logits, p)) == expected
    assert kept(keep_top_p(torch.tensor([[0.05, 0.5, 0.15, 0.3]]).log(), 0.6)) == {1, 3}


def test_each_row_has_its_own_set():
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    assert torch.isfinite(keep_top_p(logits, 0.5)).tolist() == [[True, False, False], [False, False, True]]
    assert torch.isfinite(keep_top_k(logits, 1)).tolist() == [[True, False, False], [False, False, True]]


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-45, 1e-38, 1e-6])
def test_no_temperature_takes_the_likeliest(temperature):
    logits = torch.tensor([[1.0, 3.0, 2.9], [-1000.0, -2000.0, -3000.0]])
    for _ in range(5):
        assert choose(logits, Sampling(temperature)).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.4, 0.3, 0.2, 0.1]),
        (Sampling(temperature=0.5), [0.16 / 0.3, 0.09 / 0.3, 0.04 / 0.3, 0.01 / 0.3]),
        (Sampling(top_k=2), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(top_p=0.85), [4 / 9, 3 / 9, 2 / 9, 0]),
        (Sampling(top_p=1.0), [0.4, 0.3, 0.2, 0.1]),
        (Sampling(temperature=0.5, top_k=3, top_p=0.5), [1, 0, 0, 0]),  # at temperature 1 it would keep two
        (Sampling(top_k=2, top_p=0.55), [1, 0, 0, 0]),  # 4/7 reach 0.55; without top_k it would keep two
    ],
)
def test_tokens_come_as_often_as_they_should(sampling, expected):
    n = 20_000
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(n, 4)
    drawn = choose(logits, sampling, torch.Generator().manual_seed(0))
    assert drawn.shape == (n,)
    for token, probability in enumerate(expected):
        error = 5 * math.sqrt(probability * (1 - probability) / n)
        assert float((drawn == token).float().mean()) == pytest.approx(probability, abs=error)


@given(row=ROWS, seed=st.integers(0, 99), k=st.none() | st.integers(1, 5), p=st.none() | st.floats(0.01, 1))
def test_what_is_not_kept_is_never_drawn(row, seed, k, p):
    logits = torch.tensor([row])
    allowed = logits
    if k is not None:
        allowed = keep_top_k(allowed, k)
    if p is not None:
        allowed = keep_top_p(allowed, p)
    for _ in range(5):
        drawn = choose(logits, Sampling(1.0, k, p), torch.Generator().manual_seed(seed))
        assert int(drawn) in kept(allowed)


def test_logits_in_16_bits_and_impossible_tokens():
    logits = torch.tensor([[-math.inf, 1.0, -math.inf]]).bfloat16()
    for sampling in (Sampling(), Sampling(0), Sampling(top_k=3), Sampling(top_p=0.9)):
        assert choose(logits, sampling).tolist() == [1]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_broken_model_is_named(broken, temperature):
    with pytest.raises(PredictionFailed, match="predicts NaN or infinity: its weights have diverged"):
        choose(torch.tensor([[0.0, 1.0], [0.0, broken]]), Sampling(temperature))


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": math.inf}, {"temperature": math.nan}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_impossible_settings_are_named(wrong):
    [problem] = config.check(Sampling(**wrong))
    assert problem.startswith(next(iter(wrong)))
    assert not config.check(Sampling())

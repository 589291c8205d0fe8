"""Sampling: what top-k and top-p keep, and that tokens come as often as they should."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from daybreak import config
from daybreak.inference.randomness import uniform, uniforms
from daybreak.inference.sampling import (
    PredictionFailed,
    Sampling,
    add_bias,
    choose,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical,
    penalize,
    probabilities,
    truncate,
    weighed,
)

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
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": math.inf},
        {"temperature": math.nan},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": math.nan},
        {"typical_p": 0.0},
        {"repetition_penalty": 0.0},
        {"presence_penalty": math.nan},
        {"frequency_penalty": math.inf},
        {"logit_bias": ((-1, 1.0),)},
        {"logit_bias": ((1, math.nan),)},
    ],
)
def test_impossible_settings_are_named(wrong):
    [problem] = config.check(Sampling(**wrong))
    assert problem.startswith(next(iter(wrong)))
    assert not config.check(Sampling())


# --- penalties, bias, min-p, typical ---------------------------------------------------------------------------------------------


def test_penalties_by_hand():
    logits = torch.tensor([[2.0, -2.0, 1.0, 0.5]])
    both = Sampling(repetition_penalty=2.0, presence_penalty=0.25, frequency_penalty=0.125)
    # 0 is in the prompt alone, 1 twice in the text, 2 once
    result = penalize(logits, both, [[0]], [[1, 1, 2]])
    assert result[0].tolist() == [1.0, -4.0 - 0.25 - 0.25, 0.5 - 0.25 - 0.125, 0.5]
    assert logits[0].tolist() == [2.0, -2.0, 1.0, 0.5]  # as it was
    assert penalize(logits, Sampling(), [[0]], [[1]]) is logits
    assert torch.equal(penalize(logits, both, [[]], [[]]), logits)


@given(row=ROWS, prompt=st.lists(st.integers(0, 11), max_size=6), text=st.lists(st.integers(0, 11), max_size=8))
def test_only_tokens_that_were_seen_are_penalized(row, prompt, text):
    logits = torch.tensor([row])
    prompt, text = [t for t in prompt if t < len(row)], [t for t in text if t < len(row)]
    result = penalize(logits, Sampling(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.25), [prompt], [text])
    for token, value in enumerate(row):
        if token not in {*prompt, *text}:
            assert result[0, token] == logits[0, token]
        else:
            repeated = value / 1.3 if value > 0 else value * 1.3
            expected = repeated - (0.5 if token in text else 0) - 0.25 * text.count(token)
            assert float(result[0, token]) == pytest.approx(expected, abs=1e-4)


def test_a_bias_is_added_and_may_forbid():
    logits = torch.zeros(2, 3)
    assert add_bias(logits, [(1, 2.5), (0, -100.0), (7, 1.0)]).tolist() == [[-100.0, 2.5, 0.0]] * 2
    assert choose(logits, Sampling(0, logit_bias=((2, 1.0),))).tolist() == [2, 2]


@given(row=ROWS, p=st.floats(0, 1))
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(row, p):
    logits = torch.tensor([row])
    shares = (logits.double() - logits.double().max()).exp()[0]
    result = kept(keep_min_p(logits, p))
    assert int(logits.argmax()) in result
    assert {i for i, share in enumerate(shares) if share > p * (1 + 1e-5) + 1e-12} <= result
    assert result <= {i for i, share in enumerate(shares) if share >= p * (1 - 1e-5) - 1e-12}


def test_typical_of_known_probabilities():
    """The entropy is 1.33 nats; the surprise of 0.21 is 1.56, of 0.2 1.61, of 0.19 1.66, and of the likeliest 0.92: it comes last."""
    logits = torch.tensor([[0.4, 0.21, 0.2, 0.19]]).log()
    assert [kept(keep_typical(logits, p)) for p in (0.1, 0.3, 0.5, 0.7)] == [{1}, {1, 2}, {1, 2, 3}, {0, 1, 2, 3}]
    assert kept(keep_typical(torch.tensor([[1.0, -math.inf, 1.0]]), 0.6)) == {0, 2}  # a forbidden token changes nothing


@given(seed=st.integers(0, 99), p=st.floats(0.01, 0.999), scale=st.sampled_from([0.01, 1.0, 8.0]))
def test_sorting_a_few_first_keeps_the_same(seed, p, scale):
    """Against the plain way over the whole vocabulary, where a few reach p and where they do not."""
    logits = torch.randn(2, 700, generator=torch.Generator().manual_seed(seed)) * scale
    ordered, order = logits.sort(dim=-1, descending=True)
    likely = ordered.softmax(-1)
    outside = (likely.cumsum(-1) - likely >= p).scatter(-1, order, likely.cumsum(-1) - likely >= p)
    differ = (torch.isfinite(keep_top_p(logits, p)) != ~outside).sum(-1)
    assert differ.max() <= 1  # the last may fall either way by rounding


def test_what_is_kept_of_a_row_does_not_depend_on_the_others():
    """Also where many tokens are equally likely, and another row has to sort more."""
    even, wide = torch.zeros(1, 3000), torch.randn(1, 3000, generator=torch.Generator().manual_seed(0)) * 0.1
    peaked = torch.zeros(1, 3000).index_fill(1, torch.arange(100), 9.0)
    together = keep_top_p(torch.cat([even, wide, peaked]), 0.3)
    for index, alone in enumerate((even, wide, peaked)):
        assert torch.equal(together[index : index + 1], keep_top_p(alone, 0.3))
    assert torch.isfinite(together).sum(-1).tolist()[::2] == pytest.approx([900, 31], abs=1)


def test_the_order_is_the_field_s():
    """Temperature comes before min-p: 0.2 is half as likely as 0.4, and a quarter at temperature 0.5."""
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert kept(truncate(logits, Sampling(0.5, min_p=0.45))) == {0, 1}
    assert kept(truncate(logits, Sampling(1.0, min_p=0.45))) == {0, 1, 2}
    assert probabilities(logits, Sampling(0)).tolist() == [[1.0, 0.0, 0.0, 0.0]]


# --- drawing by counter -----------------------------------------------------------------------------------------------------------


def test_drawing_inverts_the_distribution():
    given_ = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0]).expand(6, 5)
    numbers = torch.tensor([0.0, 0.2499999, 0.25, 0.5, 0.999, 1 - 2**-53], dtype=torch.float64)
    assert draw(given_, numbers).tolist() == [1, 1, 3, 3, 3, 3]


@given(
    seed=st.integers(0, 99),
    size=st.sampled_from([1, 255, 256, 257, 1000]),
    share=st.sampled_from([0.002, 0.5, 1.0]),
    number=st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 1 - 2**-53])),
)
def test_drawing_by_blocks_is_drawing_from_the_running_sum(seed, size, share, number):
    generator = torch.Generator().manual_seed(seed)
    likely = torch.rand(1, size, generator=generator) * (torch.rand(1, size, generator=generator) < share)
    likely[0, seed % size] += 1e-3  # so that there is something to draw
    token = int(draw(likely, torch.tensor([number], dtype=torch.float64)))
    assert likely[0, token] > 0
    edges = likely.double().cumsum(-1)[0]
    target = number * float(edges[-1])
    error = 1e-6 * float(edges[-1])  # blocks are summed in fp32
    assert float(edges[token]) - float(likely[0, token].double()) - error <= target <= float(edges[token]) + error


@given(row=ROWS, temperature=st.sampled_from([0.01, 0.5, 1.0, 3.0]), k=st.none() | st.integers(1, 5))
def test_weights_are_proportional_to_the_probabilities_and_nothing_where_none_may_be_drawn(row, temperature, k):
    truncated = truncate(torch.tensor([row]), Sampling(temperature, k))
    likely = truncated.softmax(dim=-1)
    weights = weighed(truncated.clone())
    torch.testing.assert_close(weights / weights.sum(), likely, rtol=1e-5, atol=1e-30)
    assert (weights[truncated == -math.inf] == 0).all()


def test_numbers_depend_on_seed_and_position_alone():
    together = uniforms([1, 2, 1], [5, 5, 6])
    assert together.tolist() == [uniform(1, 5), uniform(2, 5), uniform(1, 6)]
    assert len(set(together.tolist())) == 3
    assert uniform(2**63 - 1, 10**6) == uniform(2**63 - 1, 10**6)


@pytest.mark.parametrize("rows", [[(7, t) for t in range(4000)], [(s, 3) for s in range(4000)]])
def test_numbers_are_uniform_along_positions_and_along_seeds(rows):
    """By Kolmogorov and Smirnov, at one in a million; and neighbours have nothing to do with each other."""
    numbers = uniforms(*zip(*rows, strict=True))
    ordered = numbers.sort().values
    n = len(rows)
    assert float((ordered - (torch.arange(n) + 0.5) / n).abs().max()) < 2.7 / math.sqrt(n)
    assert abs(float(torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1])) < 5 / math.sqrt(n)


def test_tokens_drawn_by_counter_come_as_often_as_they_should():
    expected = torch.tensor([0.4, 0.3, 0.2, 0.1])
    drawn = draw(expected.expand(4000, 4), uniforms([3] * 4000, range(4000)))
    squared = ((torch.bincount(drawn, minlength=4) - 4000 * expected) ** 2 / (4000 * expected)).sum()
    assert float(squared) < 30.7  # chi-square with 3 degrees of freedom at one in a million

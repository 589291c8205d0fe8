"""Comparisons item by item: against every outcome enumerated, against many repetitions, and in words."""

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybreak.data.tokenizer import load_tokenizer
from daybreak.evaluation import suite
from daybreak.evaluation.paired import compare, sign_test
from daybreak.model.config import GPTConfig
from daybreak.model.init import build


@pytest.mark.parametrize("throws", range(1, 13))
def test_the_sign_test_is_the_count_of_all_outcomes_as_one_sided(throws):
    heads = [sum(outcome) for outcome in itertools.product((0, 1), repeat=throws)]
    for better in range(throws + 1):
        as_extreme = sum(abs(2 * count - throws) >= abs(2 * better - throws) for count in heads)
        assert sign_test(better, throws - better) == pytest.approx(as_extreme / 2**throws, rel=1e-12)


@given(better=st.integers(0, 3000), worse=st.integers(0, 3000))
def test_the_sum_in_logarithms_is_the_exact_one(better, worse):
    throws = better + worse
    tail = sum(math.comb(throws, i) for i in range(min(better, worse) + 1)) if throws < 400 else None
    p = sign_test(better, worse)
    assert 0 <= p <= 1
    assert p == sign_test(worse, better)
    if tail is not None:
        assert p == pytest.approx(float(min(Fraction(1), 2 * Fraction(tail, 2**throws))), rel=1e-9, abs=1e-300)


def test_many_items_are_no_obstacle():
    n, k = 3_000, 1_440
    exact = 2 * Fraction(sum(math.comb(n, i) for i in range(k + 1)), 2**n)
    assert sign_test(k, n - k) == pytest.approx(float(exact), rel=1e-8)
    assert sign_test(0, 100_000) == 0.0
    assert sign_test(0, 0) == 1.0


def test_the_difference_and_its_error_are_those_of_the_differences():
    first, second = np.array([1, 1, 0, 1, 0, 1]), np.array([1, 0, 0, 0, 1, 1])
    result = compare(first, second)
    differences = [0, 1, 0, 1, -1, 0]
    mean = sum(differences) / 6
    variance = sum((d - mean) ** 2 for d in differences) / 5
    assert (result.n, result.better, result.worse) == (6, 2, 1)
    assert result.difference == pytest.approx(mean)
    assert result.stderr == pytest.approx(math.sqrt(variance / 6))
    assert result.high - result.low == pytest.approx(2 * 2.5706 * result.stderr, rel=2e-3)  # Student's, 5 degrees of freedom
    assert result.p == 1.0
    assert result.right_or_wrong
    assert not result.significant


@given(st.lists(st.tuples(st.floats(-9, 0), st.floats(-9, 0)), min_size=2, max_size=30))
def test_changing_sides_changes_only_the_sign(pairs):
    first, second = np.array(pairs).T
    one, other = compare(first, second), compare(second, first)
    assert one.difference == -other.difference
    assert (one.low, one.high) == (-other.high, -other.low)
    assert (one.better, one.worse, one.p, one.stderr) == (other.worse, other.better, other.p, other.stderr)
    assert one.significant == other.significant


def test_one_interval_in_twenty_misses_where_there_is_no_difference():
    draw = np.random.default_rng(0)
    shared = draw.normal(size=(2000, 1, 200))  # what is hard is hard for both
    pairs = shared + draw.normal(size=(2000, 2, 200))
    significant = np.mean([compare(first, second).significant for first, second in pairs])
    assert significant == pytest.approx(0.05, abs=0.015)
    answers = (shared + draw.normal(size=(2000, 2, 200)) > 0).astype(int)
    assert np.mean([compare(first, second).significant for first, second in answers]) <= 0.06  # an exact test keeps below its level


def test_pairing_finds_what_two_separate_errors_hide():
    draw = np.random.default_rng(1)
    easy = draw.normal(scale=5, size=500)
    first, second = easy + 0.2 + draw.normal(scale=0.5, size=500), easy + draw.normal(scale=0.5, size=500)
    separate = math.hypot(first.std() / math.sqrt(500), second.std() / math.sqrt(500))
    result = compare(first, second)
    assert result.significant
    assert result.difference < separate
    assert result.stderr < separate / 5


def test_sentences():
    right, wrong = [1] * 60 + [0] * 40, [1] * 40 + [0] * 60
    assert compare(right, wrong).sentence("ours", "GPT-2") == (
        "ours is 20.00 points better than GPT-2 (95 % interval 12.02 to 27.98; better on 20 and worse on 0 of 100 items; "
        "sign test p = less than 0.0001): more than chance explains"
    )
    worse = compare(wrong, right).sentence("ours", "GPT-2")
    assert worse.startswith("ours is 20.00 points worse than GPT-2 (95 % interval 12.02 to 27.98; better on 0 and worse on 20")
    close = compare([1, 0, 0, 1], [0, 1, 0, 0]).sentence()
    assert close.startswith("the first is 25.00 points better than the second (95 % interval -127.35 to 177.35;")
    assert close.endswith("sign test p = 1): no more than chance may give")
    assert (
        compare([0, 1, 0, 0], [1, 0, 0, 1])
        .sentence()
        .startswith("the first is 25.00 points worse than the second (95 % interval -127.35 to")
    )
    nats = compare(np.linspace(-9, -1, 40), np.linspace(-9, -1, 40) - np.tile([0.1, 0.3], 20), confidence=0.99).sentence()
    assert nats.startswith(
        "the first is 0.2000 nats an item better than the second (99 % interval 0.1566 to 0.2434; better on 40 and worse"
    )
    assert nats.endswith("p = less than 0.0001): more than chance explains")
    assert "0.00 points better" in compare([1, 0], [1, 0]).sentence()


@pytest.mark.parametrize(
    ("first", "second", "more", "told"),
    [
        ([1, 0], [1, 0, 1], {}, "items: wanted the same for both models, came 2 and 3; evaluate both on one file"),
        ([[1, 0]], [[1, 0]], {}, "items: wanted the same"),
        (
            [1, 0],
            [1, 0],
            {"first_items": ["a", "b"], "second_items": ["a", "c"]},
            "they differ from number 2 on; evaluate both on one file",
        ),
        ([1], [0], {}, "items: wanted at least 2 to compare by, came 1"),
        ([1, math.nan], [0, 1], {}, "items: wanted a finite value for each"),
        ([1, 0], [0, 1], {"confidence": 1.0}, "confidence: wanted more than 0 and less than 1, came 1.0"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(first, second, more, told):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        compare(first, second, **more)
    assert told in str(caught.value)


def test_items_of_the_same_names_are_compared():
    assert compare([1, 0], [0, 0], first_items=["a", "b"], second_items=("a", "b")).better == 1


def test_results_of_the_suite_are_compared_by_what_the_items_were(tmp_path):
    words = ["east", "west", "north", "south", "up", "down"]
    lines = [{"context": f"{i}. The sun rises in the", "endings": [words[i % 6], words[(i + 1) % 6]], "label": i % 2} for i in range(20)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)), encoding="utf-8")
    tokenizer = load_tokenizer("bytes")
    mine, other = suite.open_tasks([str(tmp_path / "mine.jsonl"), str(tmp_path / "other.jsonl")], tokenizer)
    shape = GPTConfig(vocab_size=257, context_length=64, n_layer=1, n_head=2, d_model=32, init_std=0.3)
    first, second = (suite.run(mine, build(shape, seed).eval(), context_length=64) for seed in (0, 1))
    result = compare(first.values("acc"), second.values("acc"), first_items=first.digests(), second_items=second.digests())
    assert result.right_or_wrong
    assert result.difference == pytest.approx(first.figures()["acc"].value - second.figures()["acc"].value)
    nats = compare(first.values("log_likelihood"), second.values("log_likelihood"))
    assert not nats.right_or_wrong
    third = suite.run(other, build(shape, 1).eval(), context_length=64)
    with pytest.raises(ValueError, match="they differ from number 1 on"):
        compare(first.values("acc"), third.values("acc"), first_items=first.digests(), second_items=third.digests())

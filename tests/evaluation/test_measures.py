"""Figures and their errors: against hand-made ones, and against drawing samples anew."""

import math

import numpy as np
import pytest

from daybreak.evaluation import measures
from daybreak.evaluation.items import choice, completion, document
from daybreak.evaluation.measures import Figure, exponential, mean, ratio, scaled
from daybreak.evaluation.protocols import PROTOCOLS, own
from daybreak.evaluation.reading import Reading
from daybreak.evaluation.scoring import Likelihood


def asked(item, likelihoods, protocol, counts=None):
    tails = tuple(np.zeros(n, dtype=np.int64) for n in counts or [1] * len(likelihoods))
    return measures.outcome(
        0, item, Reading(np.zeros(1, dtype=np.int64), tails), [Likelihood(*row) for row in likelihoods], protocol, cut=False
    )


def test_a_choice_by_sum_by_token_and_by_character():
    item = choice("0", "c", ["aaaa", "bb", "cccccccc"], 1)
    likelihoods = [(-4.0, False), (-3.0, False), (-5.0, False)]
    by_token = asked(item, likelihoods, PROTOCOLS["hellaswag"], [4, 2, 4])  # means -1, -1.5, -1.25
    assert (by_token.values["acc"], by_token.values["acc_norm"]) == (1, 0)
    assert by_token.values["log_likelihood"] == -3
    assert by_token.values["tokens"] == 2
    assert by_token.log_likelihoods == (-4, -3, -5)
    by_character = asked(choice("0", "c", ["aaaa", "bb", "cccccccc"], 2), likelihoods, PROTOCOLS["hellaswag:harness"], [4, 2, 4])
    assert (by_character.values["acc"], by_character.values["acc_norm"]) == (0, 1)  # -1, -1.5, -0.625


def test_of_equals_the_first_is_chosen_and_a_broken_model_is_never_right():
    equal = [(-1.0, False)] * 2
    assert asked(choice("0", "", ["a", "b"], 0), equal, own("choice")).values["acc"] == 1
    assert asked(choice("0", "", ["a", "b"], 1), equal, own("choice")).values["acc"] == 0
    broken = asked(choice("0", "", ["a", "b"], 0), [(math.nan, False), (-1.0, False)], own("choice"))
    assert (broken.values["acc"], broken.values["acc_norm"]) == (0, 0)


def test_completions_and_documents():
    rows = [asked(completion("0", "a", "b"), [(value, right)], own("completion")) for value, right in [(-1.0, True), (-3.0, False)]]
    found = measures.figures("completion", rows)
    assert found["acc"] == Figure(0.5, pytest.approx(0.5), 2)
    assert found["perplexity"] == Figure(pytest.approx(math.exp(2)), pytest.approx(math.exp(2) * 1.0), 2)
    texts = [asked(document("0", text), [(value, True)], own("document")) for text, value in [("a b", -2.0), ("a b c", -4.0)]]
    found = measures.figures("document", texts)
    assert found["word_perplexity"].value == pytest.approx(math.exp(6 / 5))
    assert found["byte_perplexity"].value == pytest.approx(math.exp(6 / 8))
    assert found["bits_per_byte"].value == pytest.approx(6 / 8 / math.log(2))
    assert found["bits_per_byte"].n == 2


def test_errors_of_means_ratios_and_exponentials():
    values = np.array([1.0, 0, 0, 1, 1])
    assert mean(values) == Figure(pytest.approx(0.6), pytest.approx(math.sqrt(0.3 / 5)), 5)
    assert mean(np.array([2.0])) == Figure(2, None, 1)
    assert ratio(np.array([2.0, 4, 6]), np.array([1.0, 2, 3])) == Figure(2, pytest.approx(0), 3)
    assert ratio(values, np.full(5, 2.0)).stderr == pytest.approx(mean(values / 2).stderr)  # equal sizes: a mean
    assert exponential(Figure(2.0, 0.1, 5)) == Figure(pytest.approx(math.exp(2)), pytest.approx(0.1 * math.exp(2)), 5)
    assert exponential(Figure(800.0, None, 1)).value == math.inf
    assert scaled(Figure(2.0, 0.5, 5), 2) == Figure(4, 1, 5)
    assert math.isnan(ratio(np.array([1.0]), np.array([0.0])).value)


@pytest.mark.parametrize("kind", ["completion", "document"])
def test_the_delta_method_is_what_drawing_anew_gives(kind):
    draw = np.random.default_rng(0)
    sizes = draw.integers(20, 200, 300)
    nats = sizes * draw.normal(3.0, 0.5, 300) / (60 if kind == "completion" else 1)

    def figure(chosen):
        if kind == "completion":
            return exponential(mean(nats[chosen]))
        return exponential(ratio(nats[chosen], sizes[chosen].astype(float)))

    drawn = [figure(draw.integers(0, 300, 300)).value for _ in range(2000)]
    assert figure(np.arange(300)).stderr == pytest.approx(np.std(drawn), rel=0.1)

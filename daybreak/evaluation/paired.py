"""Two models on the same items: is one better, or is it chance?

    result = compare(first, second)          # (n,) right or wrong, or log-likelihoods, item by item
    print(result.sentence("ours", "GPT-2"))

What is easy is easy for both, so the error of the difference, taken item by item, is smaller than the two scores' own errors suggest.
The sign test counts the items on which they differ, and asks how often a fair coin would be so one-sided; for answers that are right
or wrong this is McNemar's exact test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from daybreak.student import student


@dataclass(frozen=True)
class Paired:
    """The first model against the second; higher is better."""

    n: int
    """How many items both did."""
    difference: float
    """The mean of first - second."""
    stderr: float
    """The standard error of that mean, from the differences item by item."""
    low: float
    """The lower end of the confidence interval of the mean."""
    high: float
    """Its upper end."""
    better: int
    """On how many items the first is better."""
    worse: int
    """On how many it is worse; on the rest they are equal."""
    p: float
    """How often chance would be at least as one-sided: the exact two-sided sign test on the items that differ."""
    confidence: float
    """Of the interval, and what `significant` asks for."""
    right_or_wrong: bool
    """Whether the items are answers, right or wrong, or else log-likelihoods in nats."""

    @property
    def significant(self) -> bool:
        """Whether the difference is more than chance: by the sign test for answers, which is exact, by the interval for log-likelihoods.

        A sign test of log-likelihoods would ask for the median, while perplexity goes by the mean.
        """
        return self.p < 1 - self.confidence if self.right_or_wrong else not self.low <= 0 <= self.high

    def sentence(self, first: str = "the first", second: str = "the second") -> str:
        """The result in plain words."""
        scale, unit = (100, "points") if self.right_or_wrong else (1, "nats an item")
        places = 2 if self.right_or_wrong else 4
        low, high = sorted((abs(self.low), abs(self.high))) if self.low * self.high > 0 else (self.low, self.high)
        if self.low * self.high <= 0 and self.difference < 0:
            low, high = -high, -low
        size = f"{abs(scale * self.difference):.{places}f} {unit} {'worse' if self.difference < 0 else 'better'} than {second}"
        interval = f"{100 * self.confidence:g} % interval {scale * low:.{places}f} to {scale * high:.{places}f}"
        counts = f"better on {self.better:,} and worse on {self.worse:,} of {self.n:,} items; sign test p = {_probability(self.p)}"
        verdict = "more than chance explains" if self.significant else "no more than chance may give"
        return f"{first} is {size} ({interval}; {counts}): {verdict}"


def compare(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    first_items: Sequence[str] | None = None,
    second_items: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> Paired:
    """Compares two models' values on the same items in the same order: (n,) and (n,), right or wrong, or log-likelihoods.

    `first_items` and `second_items` name the items, to make sure that they are the same. Raises ValueError if they are not.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"items: wanted the same for both models, came {one.size:,} and {other.size:,}; evaluate both on one file")
    if first_items is not None and second_items is not None and list(first_items) != list(second_items):
        at = next((i for i, (a, b) in enumerate(zip(first_items, second_items, strict=False)) if a != b), 0)
        raise ValueError(f"items: wanted the same for both models, they differ from number {at + 1:,} on; evaluate both on one file")
    if len(one) < 2:
        raise ValueError(f"items: wanted at least 2 to compare by, came {len(one)}")
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise ValueError("items: wanted a finite value for each, came some that are infinite or no number")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: wanted more than 0 and less than 1, came {confidence}")
    differences = one - other
    mean, stderr = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(len(one))
    reach = student(confidence, len(one) - 1) * stderr
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    return Paired(
        n=len(one),
        difference=mean,
        stderr=stderr,
        low=mean - reach,
        high=mean + reach,
        better=better,
        worse=worse,
        p=sign_test(better, worse),
        confidence=confidence,
        right_or_wrong=bool(np.isin(one, (0, 1)).all() and np.isin(other, (0, 1)).all()),
    )


def sign_test(better: int, worse: int) -> float:
    """The two-sided exact sign test: how often a fair coin, thrown better + worse times, falls at least as one-sidedly.

    min(1, 2 P(X <= min(better, worse))) for X binomial with probability 1/2; summed in logarithms, so that many throws are no obstacle.
    """
    throws, fewer = better + worse, min(better, worse)
    if throws == 0:
        return 1.0
    i = np.arange(1, fewer + 1)
    log_ways = np.concatenate([[0.0], np.cumsum(np.log(throws - i + 1) - np.log(i))])  # log C(throws, 0 ... fewer)
    largest = log_ways.max()
    log_tail = float(largest + np.log(np.exp(log_ways - largest).sum())) - throws * math.log(2)
    return min(1.0, 2 * math.exp(log_tail))


def _probability(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-4 else "less than 0.0001"

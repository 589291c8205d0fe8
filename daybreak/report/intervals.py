"""How sure one may be of a mean of a few runs: Student's intervals, for small n exact.

difference([3.31, 3.30, 3.32], [3.35, 3.33, 3.36])      # Welch: two groups of runs of their own
paired([3.31, 3.30, 3.32], [3.35, 3.33, 3.36])          # the same seeds in both, in the same order
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from daybreak.student import student

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate, and from where to where it may be; without bounds where there were too few runs for any."""

    mean: float
    low: float | None
    high: float | None
    how: str
    """paired, welch, or single."""

    @property
    def sure(self) -> bool:
        """Whether zero lies outside."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    @property
    def reach(self) -> float | None:
        """Half of its width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def mean(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean of some runs; mean ± t s / sqrt(n), with n - 1 degrees of freedom."""
    middle = statistics.fmean(values)
    if len(values) < 2:
        return Interval(middle, None, None, "single")
    error = statistics.stdev(values) / math.sqrt(len(values))
    return _around(middle, error, len(values) - 1, "welch", confidence)


def paired(values: Sequence[float], baseline: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean of values - baseline where the i-th of both belong together, as by the same seed; n - 1 degrees of freedom."""
    apart = mean([a - b for a, b in zip(values, baseline, strict=True)], confidence)
    return Interval(apart.mean, apart.low, apart.high, "paired" if apart.low is not None else "single")


def difference(values: Sequence[float], baseline: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """mean(values) - mean(baseline) of independent runs whose spreads may differ (Welch 1947; degrees by Satterthwaite).

    With e = s² / n of each: ± t sqrt(e1 + e2), degrees (e1 + e2)² / (e1² / (n1 - 1) + e2² / (n2 - 1)).
    """
    middle = statistics.fmean(values) - statistics.fmean(baseline)
    if len(values) < 2 or len(baseline) < 2:
        return Interval(middle, None, None, "single")
    one, other = (statistics.variance(side) / len(side) for side in (values, baseline))
    if one + other == 0:
        return Interval(middle, middle, middle, "welch")
    degrees = (one + other) ** 2 / (one**2 / (len(values) - 1) + other**2 / (len(baseline) - 1))
    return _around(middle, math.sqrt(one + other), degrees, "welch", confidence)


def _around(middle: float, error: float, degrees: float, how: str, confidence: float) -> Interval:
    reach = student(confidence, degrees) * error
    return Interval(middle, middle - reach, middle + reach, how)

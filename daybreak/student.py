"""Student's distribution, exact for any degrees of freedom: what intervals around the mean of a few need.

student(0.95, 4)        # 2.776: so many standard errors to each side hold 95 %, with five values
"""

from __future__ import annotations

import math


def student(confidence: float, degrees: float) -> float:
    """How many standard errors to each side hold `confidence` of Student's distribution, for any degrees of freedom from above zero."""
    if not (0 < confidence < 1 and degrees > 0):
        raise ValueError(f"wanted a confidence between 0 and 1 and degrees above 0, came {confidence} and {degrees}")
    tail, low, high = (1 - confidence) / 2, 0.0, 1.0
    while student_tail(high, degrees) > tail:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, degrees) > tail else (low, middle)
        if high - low <= 1e-13 * high:
            break
    return (low + high) / 2


def student_tail(t: float, degrees: float) -> float:
    """P(T > t) for t >= 0: I(v / (v + t²); v / 2, 1 / 2) / 2 (Abramowitz and Stegun, 26.7.1)."""
    return incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5) / 2


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I(x; a, b), by its continued fraction (Abramowitz and Stegun, 26.5.8; Lentz's method)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, its mirror image does not
        return 1 - incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    least = 1e-300
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1), least)
    product = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1 / _away(1 + even * d, least), _away(1 + even / c, least)
        product *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1 / _away(1 + odd * d, least), _away(1 + odd / c, least)
        product *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return front * product


def _away(value: float, least: float) -> float:
    return value if abs(value) > least else least

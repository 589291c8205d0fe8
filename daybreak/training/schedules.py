"""Learning rates as pure functions of the tokens trained on, counted with the step's own.

Counting the step's own tokens makes the first step of a warm-up learn something and the last step of a decay arrive at its floor.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]
"""tokens trained on when the step is done -> learning rate of that step."""
Shape = Callable[[float], float]
"""how far a decay is, from 0 to 1 -> how much of it is left, from 1 to 0."""


def cosine(progress: float) -> float:
    """Half a cosine: slow, fast, slow (Loshchilov and Hutter 2017, "SGDR")."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def linear(progress: float) -> float:
    """A straight line."""
    return 1.0 - progress


def one_minus_sqrt(progress: float) -> float:
    """Fast, then slower and slower (Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations")."""
    return 1.0 - math.sqrt(progress)


def warmup_decay(peak: float, floor: float, warmup_tokens: int, stable_tokens: int, decay_tokens: int, shape: Shape) -> Schedule:
    """Linear from 0 to `peak` over `warmup_tokens`, `peak` until `stable_tokens`, down in a shape to `floor` at `decay_tokens`, on at that.

    Whichever of warm-up and decay has begun decides, the warm-up first.
    """
    begin = max(warmup_tokens, stable_tokens)

    def learning_rate(tokens: int) -> float:
        if tokens < warmup_tokens:
            return peak * tokens / warmup_tokens
        if tokens >= decay_tokens:
            return floor
        if tokens < begin:
            return peak
        return floor + (peak - floor) * shape((tokens - begin) / (decay_tokens - begin))

    return learning_rate


def warmup_cosine(peak: float, floor: float, warmup_tokens: int, decay_tokens: int) -> Schedule:
    """Warm-up, then at once half a cosine.

    GPT-3 paper, appendix B: warm-up over 375M tokens, cosine to 10 % at 260B tokens, then on at 10 %.
    """
    return warmup_decay(peak, floor, warmup_tokens, warmup_tokens, decay_tokens, cosine)


def warmup_linear(peak: float, floor: float, warmup_tokens: int, decay_tokens: int) -> Schedule:
    """Warm-up, then at once a straight line; to a floor of 0 it ends better than a cosine (Bergsma et al. 2025, "Straight to Zero")."""
    return warmup_decay(peak, floor, warmup_tokens, warmup_tokens, decay_tokens, linear)


def warmup_stable_decay(
    peak: float, floor: float, warmup_tokens: int, decay_tokens: int, decay_share: float, shape: Shape = linear
) -> Schedule:
    """Warm-up, a long way at `peak`, then down over the last `decay_share` of all: a trapezoid, where the shape is linear.

    Before the decay nothing depends on where the run is to end, so it may still be sent on (Hu et al. 2024, "MiniCPM"; Hägele et al. 2024).
    """
    return warmup_decay(peak, floor, warmup_tokens, decay_tokens - round(decay_share * decay_tokens), decay_tokens, shape)


def within(schedule: Schedule, end: int, share: Callable[[], float]) -> Schedule:
    """A schedule laid out for `end` tokens, on a clock: it is as far as the tokens say, or as `share` () does, whichever is further.

    For the best model in a given time (Geiping and Goldstein 2022, "Cramming"). `share` says how much of that time will be gone when the
    step is done.
    """
    return lambda tokens: schedule(max(tokens, min(end, int(share() * end))))

"""Learning rates as pure functions of the tokens trained on, counted with the step's own.

Counting the step's own tokens makes the first step of a warm-up learn something and the last step of a decay arrive at its floor.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]
"""tokens trained on when the step is done -> learning rate of that step."""


def warmup_cosine(peak: float, floor: float, warmup_tokens: int, decay_tokens: int) -> Schedule:
    """Linear from 0 to `peak` over `warmup_tokens`, half a cosine down to `floor` at `decay_tokens`, constant after.

    GPT-3 paper, appendix B: warm-up over 375M tokens, cosine to 10 % at 260B tokens, then on at 10 %.
    """

    def learning_rate(tokens: int) -> float:
        if tokens < warmup_tokens:
            return peak * tokens / warmup_tokens
        if tokens >= decay_tokens:
            return floor
        progress = (tokens - warmup_tokens) / (decay_tokens - warmup_tokens)
        return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))

    return learning_rate

"""How long a run has trained, in all its lives and as all its processes agree: what a budget of time is counted by."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Counts while a process trains, goes on where a checkpoint left it, and changes only when it is told: between two steps."""

    def __init__(self, budget: float | None = None, now: Callable[[], float] = time.monotonic) -> None:
        """`budget`: seconds that the run has; None for no end."""
        self.budget, self._now = budget, now
        self.begin(0.0)

    def begin(self, seconds: float) -> None:
        """Goes on from so many seconds, with nothing known of how long a step takes."""
        self.seconds = seconds
        self._begun, self._before, self._laps = self._now(), seconds, (0.0, 0.0)

    def reading(self) -> int:
        """Milliseconds of training by this process's own watch."""
        return round(1000 * (self._before + self._now() - self._begun))

    def agree(self, milliseconds: int) -> None:
        """Takes what all processes take: a learning rate that follows the time has to be the same for all."""
        lap = milliseconds / 1000 - self.seconds
        self.seconds, self._laps = milliseconds / 1000, (self._laps[1], lap)

    @property
    def step(self) -> float:
        """About how long a step takes: the shorter of the last two, as an evaluation may have come between."""
        return min(self._laps)

    @property
    def is_over(self) -> bool:
        """Whether the end is nearer now than it would be after another step."""
        return self.budget is not None and self.seconds + self.step / 2 >= self.budget

    def share(self) -> float:
        """How much of the budget will be gone when the next step is done; 0 without one."""
        return 0.0 if self.budget is None else (self.seconds + self.step) / self.budget

    def state_dict(self) -> dict[str, float]:
        """The seconds so far, where they matter."""
        return {} if self.budget is None else {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Goes on from a saved state."""
        self.begin(state.get("seconds", 0.0))

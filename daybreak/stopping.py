"""Ctrl-C and SIGTERM as a wish that a run can grant between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Stopping:
    """Turns the first SIGINT or SIGTERM into a wish that the run grants after its step; the second ends it at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Gives the signals back to whoever had them."""
        while self._before:
            signal.signal(*self._before.popitem())

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        # Not the handlers from before: a shell that starts a program in the background has it ignore SIGINT.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

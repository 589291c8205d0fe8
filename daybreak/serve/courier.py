"""How tokens get from an engine's thread to the server's event loop: a box per request, one wake-up for all that a step has put in.

Waking the loop costs more than a token's own work in Python, so an engine that decodes 32 requests at once must not do it 32 times.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, final


@final
class Courier:
    """Runs small functions in the event loop's thread, in order, many per wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], Any]] = deque()
        self._under_way = False
        self._lock = threading.Lock()

    def carry(self, errand: Callable[[], Any]) -> None:
        """From any thread: has `errand` run in the loop's thread soon. Nothing happens once the loop is closed."""
        self._waiting.append(errand)
        with self._lock:
            if self._under_way:
                return
            self._under_way = True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop is closed
            self._waiting.clear()

    def _deliver(self) -> None:
        with self._lock:
            self._under_way = False
        while self._waiting:
            self._waiting.popleft()()

"""Stop strings in text that arrives in pieces: what may be shown already, and whether it is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final


@final
class StopStrings:
    """Passes text on up to the first stop string, and holds back what may still become one.

    The first is the one that is complete first, and of those the longest; so the result does not depend on where the pieces were cut.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """The text that is sure to come before any stop string; nothing more once `stopped`."""
        if self.stopped or not self._stops:
            return "" if self.stopped else piece
        text = self._held + piece
        found = [(text.find(stop) + len(stop), -len(stop)) for stop in self._stops if stop in text]
        if found:
            end, negative = min(found)
            self.stopped, self._held = True, ""
            return text[: end + negative]
        kept = max((n for stop in self._stops for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def flush(self) -> str:
        """What was held back and is text after all, as nothing follows."""
        held, self._held = self._held, ""
        return held

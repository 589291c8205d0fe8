"""Numbers as pictures made of characters: a curve in braille dots, a row of blocks, a bar of thin lines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""What each of a braille character's four rows of two dots adds to its code."""


class Curve:
    """The means of a series that may be of any length, in at most `most` pieces of equally many values."""

    def __init__(self, most: int = 512) -> None:
        self._most = most
        self._each = 1
        self._means: list[float] = []
        self._open: list[float] = []

    def add(self, value: float) -> None:
        """Adds the next value; one that is not finite is left out."""
        if not math.isfinite(value):
            return
        self._open.append(value)
        if len(self._open) == self._each:
            self._means.append(sum(self._open) / self._each)
            self._open = []
        if len(self._means) == self._most:
            self._means = [(one + other) / 2 for one, other in zip(self._means[::2], self._means[1::2], strict=True)]
            self._each *= 2

    @property
    def values(self) -> list[float]:
        """The means, the unfinished last piece's too."""
        return [*self._means, sum(self._open) / len(self._open)] if self._open else list(self._means)


def resampled(values: Sequence[float], count: int) -> list[float]:
    """`count` values that run as these do: means of neighbours where there are too many, points between where too few."""
    if not values:
        return []
    if len(values) >= count:
        edges = [round(i * len(values) / count) for i in range(count + 1)]
        return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    places = [i * (len(values) - 1) / max(1, count - 1) for i in range(count)]
    found = []
    for place in places:
        left = min(int(place), len(values) - 1)
        right = min(left + 1, len(values) - 1)
        found.append(values[left] + (place - left) * (values[right] - values[left]))
    return found


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest value to draw. The first tenth may rise above: a loss falls so deep in it that the rest would be flat."""
    shown = values[len(values) // 10 :]
    return min(shown), max(shown)


def braille(values: Sequence[float], width: int, height: int) -> list[str]:
    """A curve as `height` lines of `width` characters, highest values on top."""
    columns, rows = 2 * width, 4 * height
    if not values:
        return [" " * width] * height
    lowest, highest = bounds(values)
    span = highest - lowest
    levels = []
    for value in resampled(values, columns):
        share = (min(value, highest) - lowest) / span if span > 0 else 0.5
        levels.append(min(rows - 1, max(0, round((1 - share) * (rows - 1)))))
    codes = [[0] * width for _ in range(height)]
    for column, level in enumerate(levels):
        before = levels[column - 1] if column else level
        first, last = (level, level) if abs(level - before) <= 1 else (min(level, before + 1), max(level, before - 1))
        for row in range(first, last + 1):  # down or up to the neighbour, so that the line is whole
            codes[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
    return ["".join(chr(0x2800 + code) if code else " " for code in line) for line in codes]


def blocks(values: Sequence[float], width: int) -> str:
    """At most `width` characters, one for each value or for neighbours together."""
    shown = resampled(values, min(width, len(values)))
    if not shown:
        return ""
    lowest, span = min(shown), max(shown) - min(shown)
    return "".join(_BLOCKS[round((value - lowest) / span * 7) if span > 0 else 3] for value in shown)


def bar(share: float, width: int) -> tuple[str, str]:
    """The done and the open part of a bar `width` characters long."""
    halves = round(min(1.0, max(0.0, share)) * 2 * width)
    done = "━" * (halves // 2) + "╸" * (halves % 2)
    return done, "─" * (width - len(done))

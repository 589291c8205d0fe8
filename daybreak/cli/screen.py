"""The lowest lines of a terminal, drawn again and again in place, with room above for lines that stay.

Between two frames the terminal may have been made narrower, which folds what stands there: how many rows the last frame takes is
reckoned anew, so that no piece of it is left behind. While it is in use, what others write to standard error is put above it.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_LINE, _LINE_END, _REST = "\x1b[2K", "\x1b[K", "\x1b[J"
"""Erase the line, from here to its end, and all from here."""


class Screen:
    """Draws frames at the foot of the console; nothing at all before the first."""

    def __init__(self, console: Console) -> None:
        from rich.console import Console as Pen

        self._console = console
        self._pen = Pen(  # writes into a string, as the console would, and folds nothing
            file=io.StringIO(),
            force_terminal=True,
            color_system=console.color_system,  # type: ignore[arg-type]
            no_color=console.no_color,
            width=10_000,
            height=100,
            legacy_windows=False,
        )
        self._stream: TextIO = console.file  # type: ignore[assignment]
        self._frame: Sequence[Text] = ()
        self._lengths: list[int] = []
        """How many cells each line of the last frame has."""
        self._lock = threading.RLock()
        self._open = False
        self._above: _Above | None = None

    @property
    def size(self) -> tuple[int, int]:
        """How many cells wide and lines high a frame may be now: in the last column terminals do not agree what erasing does."""
        return max(1, self._console.size.width - 1), self._console.size.height

    def draw(self, frame: Sequence[Text]) -> None:
        """Puts a frame in the place of the last; its lines are cut at the terminal's edge."""
        with self._lock:
            self._frame = frame
            self._write(self._begun() + self._back() + self._rendered() + _REST)

    def say(self, text: Text) -> None:
        """Puts text above the frame, where it stays; long lines are folded by the terminal."""
        with self._lock:
            self._write(self._begun() + self._back() + self._lines(text) + self._rendered() + _REST)

    def close(self) -> None:
        """Leaves the last frame where it is and gives the terminal back; a second call does nothing."""
        with self._lock:
            if self._open:
                if self._above is not None:
                    self._above.rest()
                    sys.stderr, self._above = self._stream, None
                self._open = False
                self._write(_SHOW)

    def _begun(self) -> str:
        if self._open:
            return ""
        self._open = True
        if self._stream is sys.stderr:
            sys.stderr = self._above = _Above(self)
        return _HIDE

    def _back(self) -> str:
        """Moves to where the last frame began, and forgets it."""
        width, height = self._console.size
        rows = sum(max(1, -(-cells // width)) for cells in self._lengths)
        self._lengths = []
        return f"\x1b[{min(rows, height - 1)}F" if rows else "\r"

    def _rendered(self) -> str:
        from rich.text import Text

        if not self._frame:
            return ""
        width = self.size[0]
        for line in self._frame:
            line.truncate(width)
        self._lengths = [line.cell_len for line in self._frame]
        return self._lines(Text("\n").join(self._frame))

    def _lines(self, text: Text) -> str:
        """Text that leaves nothing of what stood in its lines; each is erased whole, lest terminals fold the rest when made narrower."""
        file = self._pen.file
        assert isinstance(file, io.StringIO)
        self._pen.print(text, soft_wrap=True, emoji=False, highlight=False)
        drawn = file.getvalue()
        file.seek(0)
        file.truncate()
        return "".join(f"{_LINE}{line}{_LINE_END}\n" for line in drawn.removesuffix("\n").split("\n"))

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # the terminal went away; the work matters more
            self._stream = io.StringIO()


class _Above(io.TextIOBase):
    """Standard error while a frame is drawn: whole lines go above it."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._line = ""

    def write(self, text: str) -> int:
        """Keeps text until its line ends."""
        from rich.text import Text

        from daybreak.cli.speak import harmless

        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._screen.say(Text(harmless(line)))
        return len(text)

    def rest(self) -> None:
        """Tells a last line that has no end."""
        if self._line:
            self.write("\n")

    def isatty(self) -> bool:
        """As the stream behind it."""
        return True

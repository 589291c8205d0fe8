"""A run as one calm view at the foot of the terminal, drawn by a thread that takes a small, fixed share of the time at most."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from daybreak.cli.frame import folded, frame
from daybreak.cli.screen import Screen
from daybreak.cli.seen import Seen
from daybreak.cli.speak import harmless

if TYPE_CHECKING:
    from rich.console import Console

Event = dict[str, Any]
Rows = Sequence[tuple[str, str]]
"""Lines with a name before each, which may be empty."""

_LABEL = 10
_SHOWN_BELOW = ("step", "eval", "sample", "checkpoint", "skip", "rollback", "stop", "end")
"""Events that the view itself shows."""
_FASTEST = 0.25
_SHARE = 1 / 400
"""Seconds between two frames at least, and how much of the time drawing may take."""


class Live:
    """Shows the events of a run. What stays of them is written above the view: how the run begins, tasks, samples as newer ones come."""

    def __init__(
        self,
        console: Console,
        *,
        beginning: Callable[[Event], Rows],
        said: Callable[[Event], str],
        past: Callable[[], Iterable[Event]] = tuple,
        memory: Callable[[], tuple[int, int | None]] | None = None,
    ) -> None:
        """`beginning`: what to say of a start. `said`: another event in words. `past`: what a run that is resumed had told before."""
        self._screen = Screen(console)
        self._beginning, self._said, self._past, self._memory = beginning, said, past, memory
        self._seen = Seen()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def event(self, event: Event) -> None:
        """Takes an event in; the next frame shows it."""
        if event["event"] == "resume":
            for earlier in self._past():
                self._seen.past(earlier)
        if event["event"] == "sample" and self._seen.sample is not None:
            self._keep_sample()
        self._seen.event(event)
        if event["event"] in ("start", "resume"):
            for label, text in self._beginning(event):
                self._line(label, text)
            self._begin()
        elif event["event"] not in _SHOWN_BELOW:
            self._told(self._said(event))

    def close(self) -> None:
        """Draws how things stand for the last time, and leaves it there."""
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            self.draw()
        self._screen.close()

    def draw(self) -> None:
        """Draws one frame."""
        width, height = self._screen.size
        self._screen.draw(frame(self._seen, width, height, None if self._memory is None else self._memory()))

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="daybreak-live-view", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        wait = 0.0
        while not self._over.wait(wait):
            began = time.thread_time()
            self.draw()
            wait = max(_FASTEST, (time.thread_time() - began) / _SHARE)

    def _keep_sample(self) -> None:
        assert self._seen.sample is not None
        step, prompt, text = self._seen.sample
        self._line("sample", f"step {step:,}: {prompt}{text}")

    def _told(self, text: str) -> None:
        for line in text.split("\n"):
            self._line(line[:_LABEL].rstrip(), line[_LABEL:])

    def _line(self, label: str, text: str) -> None:
        from rich.text import Text

        lines = folded(harmless(text), max(10, self._screen.size[0] - _LABEL))
        self._screen.say(Text().append(f"{label:{_LABEL}}", style="dim").append(f"\n{'':{_LABEL}}".join(lines)))

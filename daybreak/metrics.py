"""What happened in a run, one JSON object per line, for people, pages and programs to read; and from here to other places if asked.

Each line has `event` (start, step, eval, tasks, probe, sample, checkpoint, skip, rollback, resume, stop, end), `step`, `tokens` and `time`
(seconds since 1970); the rest depends on the event. Any may have a `warning`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from daybreak.sinks import Sink, Sinks


class MetricsFile:
    """Appends events to a file, one line each, flushed at once, so that a page can follow a run while it trains."""

    def __init__(self, path: Path, sinks: Sequence[Sink] = ()) -> None:
        """`sinks`: where else the events go."""
        path.parent.mkdir(parents=True, exist_ok=True)
        _end_last_line(path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._sinks = Sinks(sinks)

    def write(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Appends one event and returns it with what the sinks had to say. Numbers that JSON cannot hold (NaN, infinity) become null."""
        event = {**event, **self._sinks.write(event)}
        self._file.write(json.dumps(plain(event), ensure_ascii=False) + "\n")
        self._file.flush()
        return event

    def close(self) -> None:
        """Closes the file and the sinks; a second call does nothing."""
        self._file.close()
        self._sinks.close()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a metrics file in order. A line cut short by a crash is passed over, as is anything that is no event."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(event, dict) and "event" in event:
                yield event


_ENDING = ("sample", "tasks", "end")


def as_one_run(events: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events that count: what a run had done past the step that it was resumed from, went back to or started anew at is dropped."""
    kept: list[dict[str, Any]] = []
    for event in events:
        if event["event"] == "start":
            kept = []
        elif event["event"] in ("resume", "rollback"):
            kept = [earlier for earlier in kept if earlier.get("step", 0) <= event.get("step", 0)]
            if event.get("step", 0) == event.get("steps"):  # only its end is left to tell, and is told again
                kept = [earlier for earlier in kept if earlier.get("step", 0) < event["step"] or earlier["event"] not in _ENDING]
        kept.append(event)
    return kept


def plain(value: Any) -> Any:
    """The value as JSON can hold it: NaN and infinity, at any depth, become None."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _end_last_line(path: Path) -> None:
    """A crash can leave a line without its end; the next event must not be glued to it."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with open(path, "rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")

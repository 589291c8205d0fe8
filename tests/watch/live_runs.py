"""Runs on disk that go on while a test looks, and the page's server for them."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from made_runs import made_run

from daybreak.report.references import Reference
from daybreak.watch.server import Server, Watch

REFERENCE = Reference("somebody", "fineweb-edu", "gpt2", 124_439_808, (1e6, 1e9), (6.0, 3.0), "a paper")


class LiveRun:
    """A made run in a folder, of which the first part is written and the rest can be."""

    def __init__(self, folder: Path, written: float = 1.0, **how: Any) -> None:
        record = made_run(folder.name, **how)
        events = [dict(event) for event in record.events]
        events[0] |= {**record.facts, "steps": events[-1]["step"], "train_tokens": events[-1]["tokens"]}
        first = max(1, int(len(events) * written))
        late = time.time() - events[first - 1]["time"]
        self._events = iter([{**event, "time": event["time"] + late} for event in events])
        folder.mkdir(parents=True)
        (folder / "settings.json").write_text(json.dumps(record.settings))
        (folder / "data.json").write_text(json.dumps(record.data))
        self.path = folder / "metrics.jsonl"
        self.go_on(first)

    def go_on(self, events: int) -> None:
        """Writes so many more."""
        with open(self.path, "a", encoding="utf-8") as file:
            for event, _ in zip(self._events, range(events), strict=False):
                file.write(json.dumps(event) + "\n")


@contextlib.contextmanager
def serving(*places: Path) -> Iterator[Server]:
    """The server of the page for some folders, on a free port."""
    with Watch(places, [REFERENCE]) as watch, Server(watch, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)

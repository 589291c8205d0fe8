"""Follows one run's folder: reads what was written since, from where it stopped reading; never writes.

A file that is small is read whole. Of a large one a few thousand lines are read at once, from its beginning, its end and evenly between,
for a first look that takes milliseconds whatever the size; `read` then goes through all of it, a piece at each call, and replaces the look.
"""

from __future__ import annotations

import itertools
import json
import mmap
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from daybreak.watch.history import History

PIECE = 1 << 18
"""How many bytes are read at a time."""
_WHOLE = 4 << 20
"""Files up to so many bytes are read whole at the first look."""
_LOOKS = 700
_EDGE = 1 << 16


class Follower:
    """A run's folder as it stands: `read` catches up, `history` is what is known."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.resolve().name
        self.path = folder / "metrics.jsonl"
        self.lock = threading.Lock()
        self.history = History()
        self.glance: History | None = None
        """What the first look at a large file gave, until all of it is read."""
        self.version = 0
        """Grows with every change."""
        self.written: float | None = None
        """When the file was last written to, in seconds since 1970."""
        self.size = 0
        self._at = 0
        self._inode = 0
        self._rest = b""
        self._facts: dict[str, tuple[float, Any]] = {}

    @property
    def known(self) -> History:
        """The best there is: all of the file, or the first look at it."""
        return self.glance or self.history

    @property
    def share(self) -> float:
        """How much of the file has been read."""
        return min(1.0, self._at / self.size) if self.size else 1.0

    @property
    def cut_short(self) -> bool:
        """Whether the file ends within a line: it is being written, or its writer died."""
        return bool(self._rest.strip()) and self.share == 1.0

    def fact(self, name: str) -> Any:
        """One of the folder's JSON files, such as settings.json; None where it is absent or damaged."""
        path = self.folder / name
        try:
            changed = path.stat().st_mtime
            if name not in self._facts or self._facts[name][0] != changed:
                self._facts[name] = (changed, json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            self._facts.pop(name, None)
        return self._facts.get(name, (0.0, None))[1]

    def look(self) -> None:
        """The first look: whole, or where the file is large, a sample of it."""
        if self._changed() and self.size > _WHOLE:
            sampled = History(sampled=True)
            try:
                with open(self.path, "rb") as file:
                    sampled.take(_sample(file, self.size))
            except (OSError, ValueError):  # gone, or cut shorter meanwhile; `read` will see
                return
            with self.lock:
                self.glance, self.version = sampled, self.version + 1
        else:
            while self.read():
                pass

    def read(self) -> bool:
        """Reads the next piece; whether there is more to read."""
        if not self._changed() or self._at >= self.size:
            return False
        try:
            with open(self.path, "rb") as file:
                file.seek(self._at)
                came = file.read(PIECE)
        except OSError:  # gone, or not to be read by us
            return False
        *lines, rest = (self._rest + came).split(b"\n")
        with self.lock:
            self.history.take(lines)
            self._rest, self._at = rest, self._at + len(came)
            done = self._at >= self.size
            if done:
                self.glance = None
            self.version += 1
        return not done

    def _changed(self) -> bool:
        """Notes the file's size and time; one that was cut or replaced is begun anew. False where there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        if found.st_size < self._at or (self._inode and found.st_ino != self._inode):
            with self.lock:
                self.history, self.glance, self._at, self._rest = History(), None, 0, b""
                self.version += 1
        self._inode, self.size, self.written = found.st_ino, found.st_size, found.st_mtime
        return True


def _sample(file: BinaryIO, size: int) -> list[bytes]:
    """Whole lines from the beginning, the end and evenly between, in order; half of the places lie closer towards the beginning."""
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as text:
        lines = text[:_EDGE].split(b"\n")[:-1]
        even = np.linspace(_EDGE, size - 4 * _EDGE, _LOOKS)
        places = np.unique(np.concatenate([even, np.geomspace(_EDGE, size - 4 * _EDGE, _LOOKS)]).astype(np.int64))
        end = 0
        for place in places.tolist():
            if place < end:
                continue
            begin = text.find(b"\n", place) + 1
            end = text.find(b"\n", begin)
            if begin and end > 0:
                lines.append(text[begin:end])
        begin = text.find(b"\n", max(end, size - 4 * _EDGE)) + 1
        last = text[begin:].split(b"\n")
        return lines + last[:-1]


def run_folders(places: list[Path], most: int = 200) -> list[Path]:
    """The runs among and below the given folders, down to two levels, in order; each once."""
    found: dict[Path, None] = {}
    for place in places:
        if is_run(place):
            found[place] = None
            continue
        below = itertools.chain(_folders(place), (inner for outer in _folders(place) if not is_run(outer) for inner in _folders(outer)))
        for folder in below:
            if is_run(folder):
                found[folder] = None
    return list(found)[:most]


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, begun or about to begin."""
    return (folder / "metrics.jsonl").is_file() or ((folder / "settings.json").is_file() and not (folder / "manifest.json").is_file())


def silent_for(follower: Follower) -> float | None:
    """Seconds since the run last wrote a line."""
    return None if follower.written is None else max(0.0, time.time() - follower.written)


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []

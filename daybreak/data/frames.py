"""Bytes on disk in frames that are compressed one by one, so that any range of a large file is read at little cost.

A file is the frames one after the other, each FRAME_BYTES of what was written (the last fewer) as one zstandard frame; then, as uint64,
where each frame ends in the file; then how many there are. Text takes a third to two fifths of its size.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import zstandard

FRAME_BYTES = 1 << 17
"""Large enough to compress well, small enough that reading a few documents decompresses little else."""
LEVEL = 1
"""Of zstandard: working files live for hours, and the next levels gain 5 % of space for half the speed."""


class FrameWriter:
    """Writes pieces of bytes of any sizes; `finish` writes what is held and the table."""

    def __init__(self, file: IO[bytes]) -> None:
        self.size = 0
        """Bytes that were given."""
        self._file = file
        self._compress = zstandard.ZstdCompressor(level=LEVEL).compress
        self._ends = array("Q")
        self._held: list[bytes] = []
        self._held_bytes = 0

    def write(self, pieces: Iterable[bytes]) -> None:
        """Takes pieces that follow each other."""
        for piece in pieces:
            self.size += len(piece)
            self._held.append(piece)
            self._held_bytes += len(piece)
            if self._held_bytes >= 8 * FRAME_BYTES:
                self._write_frames(self._held_bytes // FRAME_BYTES * FRAME_BYTES)

    def _write_frames(self, beyond: int) -> None:
        held = b"".join(self._held)
        for start in range(0, beyond, FRAME_BYTES):
            frame = self._compress(memoryview(held)[start : min(start + FRAME_BYTES, beyond)])
            self._file.write(frame)
            self._ends.append((self._ends[-1] if self._ends else 0) + len(frame))
        self._held = [held[beyond:]]
        self._held_bytes -= beyond

    def finish(self) -> None:
        """Writes the last frame and the table."""
        self._write_frames(self._held_bytes)
        table = np.array([*self._ends, len(self._ends)], "<u8")
        self._file.write(table.tobytes())


class FrameReader:
    """Reads ranges of what a FrameWriter was given. Use as a context manager. Ranges in rising order decompress no frame twice."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = open(path, "rb")  # noqa: SIM115 - closed by __exit__
        self._table_size = path.stat().st_size
        self._count = self._numbers(self._table_size - 8, 1)[0]
        self._decompress = zstandard.ZstdDecompressor().decompress
        self._last = (-1, b"")

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def read(self, begin: int, end: int) -> bytes:
        """Bytes begin .. end."""
        if begin == end:
            return b""
        first, last = begin // FRAME_BYTES, (end - 1) // FRAME_BYTES
        frames = [self._last[1]] if first == self._last[0] else []
        frames += self._frames(first + len(frames), last)
        self._last = (last, frames[-1])
        if first == last:
            return frames[0][begin - first * FRAME_BYTES : end - first * FRAME_BYTES]
        frames[0] = frames[0][begin - first * FRAME_BYTES :]
        frames[-1] = frames[-1][: end - last * FRAME_BYTES]
        return b"".join(frames)

    def _frames(self, first: int, last: int) -> list[bytes]:
        """Frames first .. last, that one too."""
        if first > last:
            return []
        table = self._table_size - 8 * (self._count + 1)
        ends = self._numbers(table + 8 * max(0, first - 1), last - first + (2 if first else 1))
        bounds = ends if first else [0, *ends]
        self._file.seek(bounds[0])
        packed = memoryview(self._file.read(bounds[-1] - bounds[0]))
        cuts = [bound - bounds[0] for bound in bounds]
        return [self._decompress(packed[start:end]) for start, end in itertools.pairwise(cuts)]

    def _numbers(self, offset: int, count: int) -> list[int]:
        self._file.seek(offset)
        return [int(number) for number in np.frombuffer(self._file.read(8 * count), "<u8")]

"""Compilation by torch: kept from run to run, and its time told apart from the steps that waited for it."""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from daybreak import files


def keep() -> None:
    """Lets inductor keep what it compiles in our cache, unless somebody has named another place; a later run finds it there."""
    folder = files.cache_folder() / "compiled"
    if os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder)) == str(folder):
        _mend(folder)


@functools.cache
def _mend(folder: Path) -> None:
    """Takes away what was left half written by a compiler that was killed or a machine that went down.

    Inductor loads whatever lies there, so that every later run would fail on it. What another process is about to write stays.
    """
    for path in folder.glob("??/*"):
        with contextlib.suppress(files.Held, OSError):  # another process mends it, too, or it is not ours to mend
            if path.is_file() and is_torn(path):
                with files.locked(folder / "locks" / f"{path.name.partition('.')[0]}.lock"):
                    if is_torn(path):  # still, and nobody writes it
                        path.unlink()


def is_torn(path: Path) -> bool:
    """Whether a file is empty, or a library (ELF) that ends before its table of sections, which is written last."""
    size = path.stat().st_size
    if size == 0 or path.suffix != ".so":
        return size == 0
    with open(path, "rb") as file:
        head = file.read(64)
    if head.startswith(b"\x7fELF\x02"):
        table, entry, entries = struct.unpack_from("=Q10xHH", head.ljust(64, b"\0"), 40)
        return bool(table == 0 or table + entry * entries > size)
    return not head.strip(b"\0")


class Stopwatch(contextlib.AbstractContextManager["Stopwatch"]):
    """Counts the seconds in which torch compiled, from `with` to its end, whoever asked for it and in whichever thread."""

    def __init__(self, on: bool = True) -> None:
        """`on` False counts nothing, and does not load the compiler to do so."""
        self._on, self._total = on, 0.0
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """So far, what is under way included."""
        return self._total + (0.0 if self._since is None else time.perf_counter() - self._since)

    def __enter__(self) -> Stopwatch:
        if self._on:
            from torch._dynamo.callback import callback_handler  # it imports the compiler, which is large

            callback_handler.register_start_callback(self._begin)
            callback_handler.register_end_callback(self._end)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._on:
            from torch._dynamo.callback import callback_handler

            callback_handler.remove_start_callback(self._begin)
            callback_handler.remove_end_callback(self._end)

    def _begin(self, *_: Any) -> None:
        self._since = time.perf_counter()

    def _end(self, *_: Any) -> None:
        if self._since is not None:
            self._total += time.perf_counter() - self._since
            self._since = None

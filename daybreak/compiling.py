"""Compilation by torch: kept from run to run, and its time told apart from the steps that waited for it."""

from __future__ import annotations

import contextlib
import os
import time
from types import TracebackType
from typing import Any

from daybreak import files


def keep() -> None:
    """Lets inductor keep what it compiles in our cache, unless somebody has named another place; a later run finds it there."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(files.cache_folder() / "compiled"))


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

"""Stopping before the end, in good order: a wish that the run grants between two steps, and what is left for whoever starts it again.

SIGINT, SIGTERM, SIGUSR1 and a limit on the run's seconds are wishes. Every process has its own, so they decide together:

    wanted, = world.highest(stopping.wanted)     # after every step; the same number on every rank
    if wanted: save, and end as `how(wanted)` says
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from daybreak import files

LIMIT = 124
"""The wish that is no signal: the run's seconds are over. No signal has this number, and `timeout` exits with it."""
DONE, STOPPED = "DONE", "STOPPED"
"""Files in the run's folder that say how it ended; neither is there while it runs or where it failed."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
_ECHO_SECONDS = 2.0
_TORCHRUN_GRACE = 30.0


class How(NamedTuple):
    """How a stopped run ends."""

    reason: str
    """SIGTERM, or limit."""
    status: int
    """The exit status of the process."""


def how(wanted: int) -> How:
    """What a wish that was agreed on means."""
    return How("limit", LIMIT) if wanted == LIMIT else How(signal.Signals(wanted).name, 128 + wanted)


class Stopping:
    """The wish of this process to stop, within a with-block.

    A second SIGINT or SIGTERM ends it at once. SIGUSR1 only announces, as batch systems do, that one of these will come.
    """

    def __init__(
        self, limit_seconds: float | None = None, environment: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`limit_seconds` counts from now, and includes the last save."""
        self.signal: int | None = None
        self._clock, self._began, self._limit = clock, clock(), limit_seconds
        self._reserve = 0.0
        self._first: float | None = None  # when the first SIGINT or SIGTERM came
        self._among_others = int(environment.get("WORLD_SIZE", "1")) > 1 or "TORCHELASTIC_RUN_ID" in environment
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def wanted(self) -> int:
        """0 to go on; else the signal's number, or LIMIT."""
        if self.signal is not None:
            return self.signal
        late = self._limit is not None and self._clock() - self._began + self._reserve >= self._limit
        return LIMIT if late else 0

    def reserve(self, seconds: float) -> None:
        """Lets the limit leave time for a save of `seconds`, and half as long again."""
        self._reserve = max(self._reserve, 1.5 * seconds)

    def release(self) -> None:
        """Gives the signals back to whoever had them."""
        while self._before:
            signal.signal(*self._before.popitem())

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        now = self._clock()
        if self._first is not None and self._among_others:
            # A batch system tells every process of a job, and torchrun passes on what it was told: that is one signal, heard twice.
            if number in (signal.SIGINT, signal.SIGTERM) and now - self._first > _ECHO_SECONDS:
                os.write(2, f"daybreak: a second {signal.Signals(number).name}, ending at once\n".encode())
                os._exit(128 + number)  # the others wait for this process in exchanges that an orderly end would wait for, too
            return
        self.signal = number
        if number not in (signal.SIGINT, signal.SIGTERM):
            return
        self._first = now
        if not self._among_others:
            # Not the handlers from before: a shell that starts a program in the background has it ignore SIGINT.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def grace(environment: Mapping[str, str] = os.environ, torch_version: str | None = None) -> float | None:
    """Seconds from the signal until torchrun kills what has not ended; None if this process is not torchrun's.

    30 in every version; from 2.12 on TORCH_ELASTIC_SHUTDOWN_TIMEOUT sets it.
    """
    if "TORCHELASTIC_RUN_ID" not in environment:
        return None
    major, minor = (int(part) for part in (torch_version or importlib.metadata.version("torch")).split(".")[:2])
    wanted = environment.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "")
    return float(wanted) if (major, minor) >= (2, 12) and re.fullmatch(r"\d+", wanted) else _TORCHRUN_GRACE


def too_slow(save_seconds: float, step_seconds: float, given: float | None) -> str:
    """The warning that a step and a save do not fit into the grace period; '' if they do."""
    if given is None or save_seconds + step_seconds <= given:
        return ""
    return (
        f"a step and a save take {save_seconds + step_seconds:.0f} s, but torchrun kills a stopped run after {given:.0f} s, and what it "
        "did since its last checkpoint would be lost; set TORCH_ELASTIC_SHUTDOWN_TIMEOUT higher (torch 2.12 or later) or "
        "checkpoint.every_seconds lower"
    )


def mark(run: Path, name: str = "", text: str = "") -> None:
    """Leaves the file DONE or STOPPED in a run's folder, or neither, for scripts: torchrun exits with 1 however its processes did."""
    for other in {DONE, STOPPED} - {name}:
        (run / other).unlink(missing_ok=True)
    if name:
        files.write_text(run / name, text + "\n")


def requeue(environment: Mapping[str, str] = os.environ) -> str:
    """Asks Slurm to start this job again, as DAYBREAK_REQUEUE=1 wants it; what came of it in a sentence, '' if nobody wants it.

    To be called by one process, last: Slurm ends the job when it puts it back into the queue.
    """
    job = environment.get("SLURM_JOB_ID", "")
    if environment.get("DAYBREAK_REQUEUE") != "1" or not re.fullmatch(r"\d+", job):
        return ""
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"job {job} could not be put back into Slurm's queue ({error}); submit it again"
    if done.returncode:
        return f"job {job} could not be put back into Slurm's queue ({done.stderr.strip() or done.returncode}); submit it again"
    return f"job {job} is back in Slurm's queue"

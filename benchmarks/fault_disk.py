"""Disks that are full at the worst moment: the run fails by name, what was published verifies, and with space it ends as if never stopped.

The disk is a file system of its own in memory, of some megabytes, where this process may make one; else a limit on the size of files.
Ways of being full, in turns: too little room before a save; room that another program takes while the save writes; no room for one more
file; no room for the finished model; a limit on the size of a file.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fault_runs import differences, settings, words

from daybreak import checkpoint, story
from daybreak.files import FileProblem

DISK_BYTES, DISK_FILES = 60 << 20, 400
BEFORE, WHILE, FILES, MODEL, LIMIT = WAYS = (
    "too little room before a save",
    "room taken while a save writes",
    "no room for one more file",
    "no room for the finished model",
    "a limit on the size of files",
)


@dataclass
class Full:
    """What came of it."""

    times: int = 0
    ways: Counter[str] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)
    """What the run said, without figures."""
    lost_steps: int = 0
    """Steps that had to be taken again."""
    wrong: list[str] = field(default_factory=list)
    mounted: bool = False


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of its own at `folder`, if it may be made; says whether."""
    folder.mkdir()
    mounted = sys.platform == "linux" and shutil.which("mount") is not None
    if mounted:
        options = f"size={DISK_BYTES},nr_inodes={DISK_FILES}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False)
        mounted = done.returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


class Disk:
    """The ways in which it fills."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self.folder, self.draw = folder, draw
        self.ballast = folder / "ballast"
        self._filler: threading.Thread | None = None
        self._stop = threading.Event()
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, way: str, run: Path, save_bytes: int) -> None:
        """Fills it, or sees to it that it fills."""
        self.ballast.mkdir()
        if way != LIMIT:
            leave = self.draw.randrange({BEFORE: save_bytes, WHILE: save_bytes // 2, FILES: 5, MODEL: save_bytes // 6}[way])
            self._stop.clear()
            keep_full = self._keep_without_files if way == FILES else self._keep_without_bytes
            self._filler = threading.Thread(target=keep_full, args=(leave, run if way == WHILE else None), daemon=True)
            self._filler.start()
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.draw.randrange(20_000, save_bytes // 3), self._limits[1]))

    def free(self) -> None:
        """Makes room again."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)
        self._stop.set()
        if self._filler is not None:
            self._filler.join()
            self._filler = None
        shutil.rmtree(self.ballast)

    def _keep_without_bytes(self, leave: int, run: Path | None) -> None:
        """Takes what is free but for so much, also what a run frees by deleting; of a run that is given, from its next save on."""
        while not self._stop.is_set() and run is not None and not list((run / "checkpoints").glob(".step-*.tmp/*.safetensors")):
            time.sleep(0.0002)
        number = 0
        while not self._stop.is_set():
            taking = shutil.disk_usage(self.folder).free - leave
            while taking > 4096:
                with contextlib.suppress(OSError), open(self.ballast / f"bytes-{number}", "wb") as file:
                    number += 1
                    os.posix_fallocate(file.fileno(), 0, taking)
                    break
                taking //= 2
            time.sleep(0.0005)

    def _keep_without_files(self, leave: int, _run: Path | None) -> None:
        """The same for the number of files."""
        number = 0
        while not self._stop.is_set():
            for _ in range(os.statvfs(self.folder).f_ffree - leave):
                with contextlib.suppress(OSError):
                    (self.ballast / f"file-{number}").touch()
                    number += 1
            time.sleep(0.0005)


def fill_disks(folder: Path, data: Path, times: int, draw: random.Random, *, steps: int = 20) -> Full:
    """So many full disks, each run starting on an empty one, filled after its first checkpoint at a step drawn at random."""
    folder.mkdir(parents=True)
    full, straight = Full(), folder / "straight"
    larger = words(data, steps, "model.d_model=192", "checkpoint.every_seconds=1e-9")  # a save of megabytes takes its time
    told = settings(*larger)
    story.run(told, straight)
    save_bytes = sum(path.stat().st_size for path in checkpoint.found(straight)[-1].iterdir())
    with small_disk(folder / "disk") as full.mounted:
        disk, run = Disk(folder / "disk", draw), folder / "disk" / "run"
        while full.times < times:
            way = WAYS[full.times % len(WAYS)] if full.mounted else LIMIT
            said, last, told_steps = _until_full(disk, way, run, told, save_bytes, steps)
            if said is None:
                full.wrong.append(f"{way}: the run ended all the same")
                disk.free()
                return full
            full.times += 1
            full.ways[way] += 1
            full.said[_without_figures(said, folder)] += 1
            there = checkpoint.found(run)
            full.wrong += [f"{way}: {path.name}: {problem}" for path in there for problem in checkpoint.problems(path)]
            if not there or there[-1].name < last:
                full.wrong.append(f"{way}: {last} is lost")
            if str(run) not in said:
                full.wrong.append(f"{way}: says only {said}")
            disk.free()
            again = list(story.events(told, run))
            if again[0]["event"] != "resume" or again[0]["rejected"]:
                full.wrong.append(f"{way}: went on with {again[0]}")
            full.lost_steps += max(0, told_steps - again[0]["step"])
            full.wrong += [f"{way}: {problem}" for problem in differences(run, straight)]
            shutil.rmtree(run)
    return full


def _until_full(disk: Disk, way: str, run: Path, told: object, save_bytes: int, steps: int) -> tuple[str | None, str, int]:
    """Trains until the disk is full; what the run says of it, its last checkpoint, and how many steps it had told."""
    when, last, done, filled = disk.draw.randrange(2, steps // 2), "", 0, False
    try:
        for event in story.events(told, run):  # type: ignore[arg-type]
            if event["event"] == "checkpoint":
                last = Path(event["path"]).name
            done = max(done, event["step"]) if event["event"] == "step" else done
            due = event["event"] == "checkpoint" and event["step"] == steps if way == MODEL else last and done >= when
            if due and not filled:
                disk.fill(way, run, save_bytes)
                filled = True
    except (FileProblem, story.RunFailed) as problem:
        return str(problem), last, done
    return None, last, done


def _without_figures(said: str, folder: Path) -> str:
    """The sentence without what differs from time to time."""
    plain = said.replace(str(folder / "disk"), "")
    return re.sub(r"\d+(-[0-9a-f]{8})?", "N", plain)

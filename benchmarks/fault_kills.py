"""`kill -9` at random moments of real processes, each started again until it ends: its end is that of the one that nobody disturbed.

Trained is the run of `fault_runs`, alone and by two processes under torchrun; and text is prepared by two workers. Most moments are
drawn from all of a process's life; the rest are aimed at what is short: starting, evaluating, and the end, where the model is written.
What a process was doing is told from what it left behind.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fault_runs import BATCH_TOKENS, EVAL_EVERY, differences, events, words, write_text

from daybreak import checkpoint

PATIENCE = 240.0
"""Seconds after which a process that does not end is a failure."""
_TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@dataclass
class Tally:
    """What came of the kills of one kind of process."""

    kind: str
    kills: int = 0
    runs: int = 0
    during: Counter[str] = field(default_factory=Counter)
    """What the killed ones were doing."""
    lost_steps: int = 0
    """Steps that had been told, and had to be taken again."""
    wrong: list[str] = field(default_factory=list)
    """Everything that is not as it should be."""
    seconds: float = 0.0


def together(tallies: Sequence[Tally]) -> list[Tally]:
    """Those of one kind as one."""
    sums: dict[str, Tally] = {}
    for tally in tallies:
        one = sums.setdefault(tally.kind, Tally(tally.kind))
        one.kills, one.runs, one.lost_steps = one.kills + tally.kills, one.runs + tally.runs, one.lost_steps + tally.lost_steps
        one.during, one.wrong, one.seconds = one.during + tally.during, one.wrong + tally.wrong, one.seconds + tally.seconds
    return list(sums.values())


class Life:
    """One process and its children, from its start to its end."""

    def __init__(self, command: Sequence[str], said: Path) -> None:
        self.said = said
        self.began = time.monotonic()
        with open(said, "ab") as file:
            self.process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=file)

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait_until(self, reached: Callable[[], bool]) -> bool:
        """Whether it came so far, rather than to its end."""
        while not reached():
            if self.ended:
                return False
            if time.monotonic() - self.began > PATIENCE:
                self.kill(all_of_it=True)
                raise RuntimeError(f"a process has not come far in {PATIENCE:.0f} s: {self.last_words()}")
            time.sleep(0.003)
        return True

    def sleep(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def ranks(self) -> list[int]:
        """torchrun's processes."""
        return [child for child in self.tree() if child != self.process.pid and _environment(child).get("RANK")]

    def tree(self) -> list[int]:
        """It and all that it has started."""
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        tree = [self.process.pid]
        for process in tree:
            tree += [child for child, parent in parents.items() if parent == process]
        return tree

    def kill(self, *, all_of_it: bool) -> bool:
        """Whether it was still there to be killed."""
        if self.ended:
            return False
        for process in reversed(self.tree()) if all_of_it else [self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return self.process.wait() == -signal.SIGKILL

    def end(self) -> int:
        """Lets it end by itself; its exit status."""
        self.wait_until(lambda: self.ended)
        return int(self.process.returncode)

    def last_words(self) -> str:
        return " / ".join(self.said.read_text(errors="replace").splitlines()[-3:])


def _environment(process: int) -> dict[str, str]:
    try:
        pairs = (Path("/proc") / str(process) / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


# --- training ----------------------------------------------------------------------------------------------------------------


class Training:
    """The same run, again and again; `layout` none is one process alone."""

    def __init__(self, folder: Path, data: Path, steps: int, layout: str | None, draw: random.Random) -> None:
        self.folder, self.data, self.steps, self.layout, self.draw = folder, data, steps, layout, draw
        self.straight = folder / "straight"
        life = self._start(self.straight, "checkpoint.every_seconds=0.05")
        if status := life.end():
            raise RuntimeError(f"the run that nobody disturbs ended with {status}: {life.last_words()}")
        told = events(self.straight)
        steps_told = [event for event in told if event["event"] == "step"]
        wall = {event["event"]: event["time"] for event in told}
        self.seconds_to_start = told[0]["time"] - (time.time() - (time.monotonic() - life.began))
        self.seconds_to_train = steps_told[-1]["time"] - told[0]["time"]
        self.seconds_to_finish = wall["end"] - steps_told[-1]["time"]
        evals = [after["time"] - before["time"] for before, after in itertools.pairwise(told) if after["event"] == "eval"]
        self.seconds_to_evaluate = sorted(evals)[len(evals) // 2]

    def killed(self, moments: Sequence[str], number: int, tally: Tally) -> int:
        """One run, killed at these moments, or at as many as it lasts for, and then left to end; returns how many it was killed at."""
        out = self.folder / f"killed-{number}"
        every = self.draw.choice(["1e-9", "1e-9", "0.1", "0.4"])
        done = 0
        for moment in moments:
            life, before = self._start(out, f"checkpoint.every_seconds={every}"), _size(out)
            if not self._kill(life, out, moment, before):
                if life.end() not in (0, None):
                    tally.wrong.append(f"{out.name}: ended with {life.process.returncode} instead of being killed: {life.last_words()}")
                    return done
                break
            done += 1
            tally.during[self._left_behind(out, before)] += 1
            damaged = [problem for path in checkpoint.found(out) for problem in checkpoint.problems(path)]
            tally.wrong += [f"{out.name}: after a kill {problem}" for problem in damaged]
        life = self._start(out, f"checkpoint.every_seconds={every}")
        if status := life.end():
            tally.wrong.append(f"{out.name}: ended with {status}: {life.last_words()}")
        else:
            tally.wrong += [f"{out.name}: {problem}" for problem in differences(out, self.straight)]
            tally.wrong += [] if (out / "report.html").is_file() else [f"{out.name}: report.html is missing"]
        told = events(out)
        tally.wrong += [f"{out.name}: rejected {event['rejected']}" for event in told if event.get("rejected")]
        tally.lost_steps += sum(event["event"] == "step" for event in told) - self.steps
        tally.runs += 1
        if not any(problem.startswith(f"{out.name}:") for problem in tally.wrong):
            shutil.rmtree(out)
        return done

    def _start(self, out: Path, *edits: str) -> Life:
        layout = [] if self.layout is None else [f"machine.parallel={self.layout}", "machine.patience=60"]
        module = ["-m", "daybreak"] if self.layout is None else [*_TORCHRUN, "-m", "daybreak"]
        command = [*module, "train", "demo", *words(self.data, self.steps, *edits, *layout), "--out", str(out), "--quiet"]
        return Life(command, out.with_name(out.name + ".stderr"))

    def _kill(self, life: Life, out: Path, moment: str, before: int) -> bool:
        """Waits for the moment and kills; of several processes one rank or all of them. False if the run ended before."""
        draw, path = self.draw, out / "metrics.jsonl"
        if moment == "starting":
            life.sleep(draw.uniform(0, self.seconds_to_start))
        elif moment == "anywhere":
            if not life.wait_until(lambda: _size(out) > before):
                return False
            life.sleep(draw.uniform(0, 0.25 * self.seconds_to_train))
        elif moment == "evaluating":
            if not life.wait_until(lambda: _size(out) > before and _evaluates(_last(path))):
                return False
            life.sleep(draw.uniform(0, self.seconds_to_evaluate))
        else:
            if not life.wait_until(lambda: _last(path).get("step") == self.steps):
                return False
            life.sleep(draw.uniform(0, self.seconds_to_finish))
        ranks = life.ranks() if self.layout else []
        if not ranks or draw.random() < 0.5:
            return life.kill(all_of_it=True)
        with contextlib.suppress(ProcessLookupError):
            os.kill(draw.choice(ranks), signal.SIGKILL)
        return life.end() != 0  # torchrun ends the other one, and says that they failed

    def _left_behind(self, out: Path, before: int) -> str:
        """What the last process was doing when it died."""
        if _size(out) == before:
            return "starting"
        told = events(out)
        saving = ", a save under way" if list((out / "checkpoints").glob(".step-*.tmp")) else ""
        if told[-1]["event"] == "end":
            return "after the end: writing the report"
        if told[-1]["step"] == self.steps:
            return "at the end: scoring, sampling, writing the model"
        return ("evaluating" if _evaluates(told[-1]) else "training") + saving


def _size(out: Path) -> int:
    """Of what a run has told."""
    path = out / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def _last(path: Path) -> dict[str, object]:
    """The last event of a run."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 4000))
            lines = file.read().split(b"\n")
        return dict(json.loads(lines[-2]))
    except (OSError, IndexError, ValueError):
        return {}


def _evaluates(event: dict[str, object]) -> bool:
    tokens = event.get("tokens", 0)
    assert isinstance(tokens, int)
    return event.get("event") == "step" and tokens % EVAL_EVERY == 0


def kill_training(folder: Path, data: Path, kills: int, draw: random.Random, *, steps: int, layout: str | None, per_run: int) -> Tally:
    """So many kills, over as many runs as they take."""
    assert steps * BATCH_TOKENS % EVAL_EVERY == 0
    folder.mkdir(parents=True)
    started = time.monotonic()
    tally = Tally("training" if layout is None else f"training, two processes, {layout}")
    training = Training(folder, data, steps, layout, draw)
    aimed = ["anywhere"] * 6 + ["evaluating"] * 3 + ["starting"]
    while tally.kills < kills:
        ahead = min(per_run, kills - tally.kills)
        moments = [*draw.choices(aimed, k=ahead - 1), "the end"]
        tally.kills += training.killed(moments, tally.runs, tally)
        print(f"  {folder.name}: {tally.kills} of {kills} kills, {tally.runs} runs, {len(tally.wrong)} wrong", flush=True)
    tally.seconds = time.monotonic() - started
    return tally


# --- preparing data ----------------------------------------------------------------------------------------------------------


def kill_preparing(folder: Path, kills: int, draw: random.Random, *, size: int, per_run: int) -> Tally:
    """The same for text that is prepared: read, learned from, tokenized and written by two workers. Killed is the leader, or all."""
    folder.mkdir(parents=True)
    started = time.monotonic()
    tally = Tally("preparing data")
    sources = [str(write_text(folder / f"text-{number}.jsonl", size // 3, seed=number)) for number in range(3)]

    def start(out: Path) -> Life:
        command = ["-m", "daybreak", "data", "prepare", *sources, "--out", str(out), "--tokenizer", "bpe", "--vocab-size", "512"]
        command += ["--workers", "2", "--val-fraction", "0.05", "--shard-tokens", "300000", "--json"]
        return Life(command, out.with_name(out.name + ".stderr"))

    life = start(folder / "straight")
    if status := life.end():
        raise RuntimeError(f"preparing, undisturbed, ended with {status}: {life.last_words()}")
    whole = time.monotonic() - life.began
    wanted = _contents(folder / "straight")
    while tally.kills < kills:
        out = folder / f"killed-{tally.runs}"
        for _ in range(min(per_run, kills - tally.kills)):
            life = start(out)
            life.sleep(draw.uniform(0, 1.1 * whole))
            if not life.kill(all_of_it=draw.random() < 0.5):
                whole *= 0.8  # the machine was busier when it was measured
                break
            tally.kills += 1
            tally.during[_stage(out)] += 1
        life = start(out)
        if status := life.end():
            tally.wrong.append(f"{out.name}: ended with {status}: {life.last_words()}")
        else:
            found = _contents(out)
            tally.wrong += [f"{out.name}: {name} differs" for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)]
        tally.runs += 1
        print(f"  {folder.name}: {tally.kills} of {kills} kills, {tally.runs} preparations, {len(tally.wrong)} wrong", flush=True)
    tally.seconds = time.monotonic() - started
    return tally


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _stage(out: Path) -> str:
    work = out / ".prepare"
    if (out / "manifest.json").exists():
        return "after the manifest"
    if list(out.glob("*.bin")):
        return "writing shards"
    if (work / "tokenizer.done").exists():
        return "tokenizing"
    return "reading, or learning the tokenizer" if (work / "read").is_dir() else "starting"

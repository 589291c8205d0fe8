"""A few real steps of training on made-up text, timed: what a choice of settings is worth on this machine.

    trial = measure(settings)            # here
    trial = measure_apart(settings)      # in a process of its own, which may run out of memory and leaves nothing behind

It builds and steps as a run does. A step is one batch of `train.batch_tokens`; there is no evaluation, no sample, no checkpoint.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from daybreak import choosing, compiling, config, machine, stepping
from daybreak.model.config import GPTConfig
from daybreak.running import Running
from daybreak.settings import Settings
from daybreak.training.late import Late
from daybreak.training.loop import Step
from daybreak.training.parallel import Across, Alone
from daybreak.world import ALONE

WARM_UP = {"cpu": 1, "mps": 2, "cuda": 3}
"""Steps that are not timed: they compile, and find their memory."""
FEWEST, MOST = 3, 50
"""Steps that are."""
LONG = 20.0
"""Seconds after which fewer will do: what else the machine does is lost in so long a step."""


@dataclass(frozen=True)
class Trial:
    """What was measured. The median step counts."""

    tokens_per_second: float
    milliseconds: float
    """Of a step."""
    spread: float
    """How far the slowest and the quickest step lie apart, as a share of the median."""
    steps: int
    compile_seconds: float
    data_share: float
    """The share of the time that was spent waiting for data."""
    memory_bytes: int
    """The most that the device held; on a CPU the most that the process held, torch itself with it."""
    loss: float


class TrialFailed(RuntimeError):
    """The settings cannot be tried here; the message says why."""


class OutOfMemory(TrialFailed):
    """There is not enough memory for them."""


class Unpadded(GPTConfig):
    """The same shape with no rows that round the vocabulary up, to see what they are worth."""

    @property
    def padded_vocab_size(self) -> int:
        """The vocabulary as it is."""
        return self.tokens

    @staticmethod
    def of(shape: GPTConfig) -> Unpadded:
        """The shape without padding."""
        return Unpadded(**{field.name: getattr(shape, field.name) for field in dataclasses.fields(shape)})


class MadeUp:
    """Text of random tokens: constant ones would run faster on some devices."""

    def __init__(self, vocab_size: int, length: int) -> None:
        self._tokens = np.random.default_rng(0).integers(0, vocab_size, length, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._tokens)

    def windows(self, starts: NDArray[np.int64], length: int) -> NDArray[np.generic]:
        """(n,) starts -> (n, length)."""
        return np.stack([self._tokens[start : start + length] for start in starts])


def measure(settings: Settings, seconds: float = 5.0, padded: bool = True, ways: Across | None = None) -> Trial:
    """Trains for a few steps in this process. Raises OutOfMemory, and whatever else the settings may lead to."""
    if not padded:
        settings = dataclasses.replace(settings, model=Unpadded.of(settings.model))
    device = machine.choose_device(settings.machine.device)
    precision = machine.choose_precision(device, settings.machine.precision)
    plan = settings.train
    plan = dataclasses.replace(plan, batch_start_tokens=None, batch_ramp_tokens=0, stop_tokens=None, spike=None)
    plan = dataclasses.replace(plan, train_tokens=max(plan.train_tokens, 1000 * plan.batch_tokens))
    settings = dataclasses.replace(settings, train=plan)
    if settings.machine.compile:
        torch.compiler.reset()  # after a few shapes of one piece of code the compiler gives up on it
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if device.type == "cpu":
        machine.prepare_cpu(settings.machine.threads)
    chosen = choosing.choose(settings, device, precision, "single", ALONE)
    try:
        return _stepped(settings, device, precision, ways or Alone(), chosen, seconds)
    except (RuntimeError, MemoryError) as error:
        if not machine.is_out_of_memory(error):
            raise
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    # Here, where the error no longer holds what was computed.
    raise OutOfMemory(f"{device} has too little memory for micro-batches of {chosen.micro_batch}")


def _stepped(
    settings: Settings, device: torch.device, precision: machine.Precision, ways: Across, chosen: choosing.Chosen, seconds: float
) -> Trial:
    batch_tokens = settings.train.batch_tokens
    text = MadeUp(settings.model.tokens, 4 * batch_tokens + 1)
    with tempfile.TemporaryDirectory() as folder:  # where nothing is saved
        running = Running(settings, Path(folder), text, {}, device, precision, ALONE, ways, chosen)
        try:
            running.begin(new=True)
            return _timed(running, batch_tokens, seconds)
        finally:
            running.close()


def _timed(running: Running, batch_tokens: int, seconds: float) -> Trial:
    device, late, loss = running.device, Late[Step](running.device), float("nan")
    warm, taken, waited, began = WARM_UP[device.type], list[float](), 0.0, 0.0
    with compiling.Stopwatch(running.settings.machine.compile or device.type == "cuda") as stopwatch:
        last = time.perf_counter()
        for number, step in enumerate(stepping.steps(running, warm + MOST)):
            for _, figures in late.put(step, step.verdict.figures):  # as a run reads them: a GPU is not waited for within a step
                loss = figures[0]
            now = time.perf_counter()
            if number >= warm:
                taken.append(now - last)
            else:
                waited, began = running.ahead.waited, now
            last = now
            if sum(taken) > (seconds if len(taken) >= FEWEST else max(seconds, LONG)):
                break
        late.rest()
    median = statistics.median(taken)
    return Trial(
        tokens_per_second=round(batch_tokens / median, 1),
        milliseconds=round(1000 * median, 2),
        spread=round((max(taken) - min(taken)) / median, 3),
        steps=len(taken),
        compile_seconds=round(stopwatch.seconds, 1),
        data_share=round((running.ahead.waited - waited) / (last - began), 4),
        memory_bytes=machine.peak_memory(device),
        loss=loss,
    )


def measure_apart(settings: Settings, seconds: float = 5.0, padded: bool = True) -> Trial:
    """The same in a process of its own. Raises OutOfMemory or TrialFailed."""
    request = {"settings": config.to_dict(settings), "seconds": seconds, "padded": padded}
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    told = subprocess.run(
        [sys.executable, "-m", "daybreak.trial"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    try:
        answer: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        if told.returncode == -9:  # how Linux ends who takes the last of a machine's memory
            raise OutOfMemory("the system ended it, as it does where memory runs out") from None
        last = told.stderr.strip().splitlines()[-1:]
        raise TrialFailed(f"ended with status {told.returncode}: {' '.join(last)[:300]}") from None
    if "trial" in answer:
        return Trial(**answer["trial"])
    raise (OutOfMemory if answer["memory"] else TrialFailed)(answer["error"])


def _main() -> None:
    """A request on standard input, an answer on standard output."""
    request = json.load(sys.stdin)
    settings = config.from_dict(Settings, request["settings"])
    answer: dict[str, Any]
    try:
        answer = {"trial": asdict(measure(settings, request["seconds"], request["padded"]))}
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        answer = {
            "memory": isinstance(error, OutOfMemory),
            "error": first if isinstance(error, TrialFailed) else f"{type(error).__name__}: {first}",
        }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    _main()

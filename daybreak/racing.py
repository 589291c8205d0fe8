"""A race of optimizers: the same start, the same batches, and for each the learning rate that suits it, found by a small sweep.

for heat in race(settings, data, device, precision, ["adamw", "muon"]):
    print(heat.optimizer, heat.learning_rate, heat.val_loss)
"""

from __future__ import annotations

import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from daybreak import choosing, config, machine, stepping
from daybreak.corpus import Data
from daybreak.evaluating import score_validation
from daybreak.opening import reading_batch, steps_to_take
from daybreak.running import Running
from daybreak.settings import Settings
from daybreak.training.late import Late
from daybreak.training.loop import Step
from daybreak.training.parallel import Alone
from daybreak.world import ALONE

RACERS = ("adamw", "muon", "normuon", "lion", "adam", "rmsprop", "nesterov", "momentum", "sgd")
"""All that differ; AdamW first, as its learning rate serves the rest of what the muons leave."""
FACTOR = 2.0
"""How far apart the learning rates of a sweep lie."""
_FIRST = {"sgd": 0.5, "momentum": 0.05, "nesterov": 0.05}
_SHARE = {"lion": 0.25}  # of AdamW's: Chen et al. 2023 say a third to a tenth
_COUPLED = ("sgd", "momentum", "nesterov", "rmsprop", "adam")
"""Those whose weight decay is part of the gradient, and would at AdamW's strength drown it: they race without."""


@dataclass(frozen=True)
class Heat:
    """One run of a race."""

    optimizer: str
    learning_rate: float
    """The highest; of the muons that of the matrices."""
    val_loss: float
    """At the end; infinite if it came to nothing."""
    curve: tuple[tuple[int, float], ...]
    """(tokens trained on, loss) of every step."""
    milliseconds: float
    """Of the median step, the optimizer's part included."""


@dataclass(frozen=True)
class Placed:
    """An optimizer at its best."""

    best: Heat
    tried: tuple[tuple[float, float], ...]
    """(learning rate, val_loss) in the order of the rates."""

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is the lowest or highest tried, so that another may be better."""
        return self.best.learning_rate in (self.tried[0][0], self.tried[-1][0])


def race(
    settings: Settings, data: Data, device: torch.device, precision: machine.Precision, names: Sequence[str] = RACERS, tries: int = 5
) -> Iterator[Heat]:
    """All heats, as they end: at most `tries` for each optimizer."""
    adamw = settings.train.learning_rate
    for name in names:
        ridden = []
        for ride in climb(first_rate(settings, name, adamw), partial(_ride, settings, data, device, precision, name, adamw), tries):
            ridden.append(ride)
            yield ride
        if name == "adamw":
            adamw = min(ridden, key=lambda heat: heat.val_loss).learning_rate


def climb(first: float, ride: Callable[[float], Heat], tries: int) -> Iterator[Heat]:
    """Tries a rate, then the next above or below while the best of all is the highest or lowest tried."""
    losses: dict[float, float] = {}
    rate = first
    while len(losses) < tries:
        ridden = ride(rate)
        losses[rate] = ridden.val_loss
        yield ridden
        best, low, high = min(losses, key=lambda rate: losses[rate]), min(losses), max(losses)
        if low < best < high:
            return
        rate = high * FACTOR if best == high and math.isfinite(losses[high]) else low / FACTOR


def placing(heats: Sequence[Heat]) -> list[Placed]:
    """Every optimizer at its best, the best first."""
    placed = []
    for name in dict.fromkeys(heat.optimizer for heat in heats):
        own = sorted((heat for heat in heats if heat.optimizer == name), key=lambda heat: heat.learning_rate)
        tried = tuple((heat.learning_rate, heat.val_loss) for heat in own)
        placed.append(Placed(min(own, key=lambda heat: heat.val_loss), tried))
    return sorted(placed, key=lambda row: row.best.val_loss)


def first_rate(settings: Settings, name: str, adamw: float) -> float:
    """Where an optimizer's sweep begins."""
    if name in ("muon", "normuon"):
        return settings.train.muon_learning_rate
    return _FIRST.get(name, adamw * _SHARE.get(name, 1.0))


def entered(settings: Settings, name: str, rate: float, adamw: float) -> Settings:
    """The settings of a heat."""
    edits = [f"train.optimizer={name}", "train.stop_tokens=none", "train.budget_seconds=none"]
    if name in ("muon", "normuon"):
        return config.edit(settings, [*edits, f"train.muon_learning_rate={rate!r}", f"train.learning_rate={adamw!r}"])
    decay = ["train.weight_decay=0"] if name in _COUPLED else []
    return config.edit(settings, [*edits, f"train.learning_rate={rate!r}", *decay])


def _ride(settings: Settings, data: Data, device: torch.device, precision: machine.Precision, name: str, adamw: float, rate: float) -> Heat:
    return heat(entered(settings, name, rate, adamw), data, device, precision, rate)


def heat(settings: Settings, data: Data, device: torch.device, precision: machine.Precision, rate: float) -> Heat:
    """Trains from the start to the end of the settings and scores the validation text."""
    chosen = choosing.choose(settings, device, precision, "single", ALONE)
    identity = {"data": data.manifest.fingerprint}
    curve, moments = [], [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:  # where nothing is saved
        running = Running(settings, Path(folder), data.train, identity, device, precision, ALONE, Alone(), chosen)
        try:
            running.begin(new=True)
            late: Late[Step] = Late(device)
            for step in stepping.steps(running, steps_to_take(settings)):
                moments.append(time.perf_counter())
                curve += [(told.tokens, figures[0]) for told, figures in late.put(step, step.verdict.figures)]
            curve += [(told.tokens, figures[0]) for told, figures in late.rest()]
            batch = reading_batch(settings.model.context_length, device)
            loss = score_validation(running.gpt, data, running.precision, batch, settings.eval.final_tokens).loss
        finally:
            running.close()
    laps = [after - before for before, after in itertools.pairwise(moments)]
    sound = math.isfinite(loss) and all(math.isfinite(loss) for _, loss in curve)
    return Heat(settings.train.optimizer, rate, loss if sound else math.inf, tuple(curve), 1000 * statistics.median(laps))

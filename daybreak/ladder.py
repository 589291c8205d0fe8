"""The lecture's ladder, on this machine: one lever of speed after another, each tried on top of the best so far and kept if it pays.

    for row in climb(settings, device):
        print(row.name, row.trial)

A rung that cannot be tried here is a row that says why, and so is one that ran out of memory. The first rung comes once more at the end: by
how much its speed has changed is what differences between other rungs may owe to chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch

from daybreak import config, machine
from daybreak.data.steps import largest_micro_batch
from daybreak.opening import micro_batch
from daybreak.settings import Settings
from daybreak.training.optimizers import OPTIMIZERS
from daybreak.trial import OutOfMemory, Trial, TrialFailed

Measure = Callable[[Settings, float, bool], Trial]
"""(settings, seconds, whether the vocabulary is padded) -> what was measured; raises OutOfMemory or TrialFailed."""

PAYS = 1.01
"""A rung is kept if it is so many times as fast as the best before it: less than that the clock cannot tell."""


_BARE = (
    "machine.precision=fp32",
    "machine.compile=false",
    "machine.attention=plain",
    "machine.loss_chunk=0",
    "machine.recompute=false",
    "train.batch_start_tokens=none",
    "train.batch_ramp_tokens=0",
)
"""A run without any lever."""


@dataclass(frozen=True)
class Choice:
    """What the ladder stands on: settings, and what no setting says."""

    settings: Settings
    padded: bool = True

    def edited(self, *edits: str, padded: bool | None = None) -> Choice:
        """The same but for some `path=value`."""
        return Choice(config.edit(self.settings, edits), self.padded if padded is None else padded)


@dataclass(frozen=True)
class Rung:
    """One lever: its name, what it changes, and why it cannot be tried here, if so."""

    name: str
    edits: tuple[str, ...] = ()
    padded: bool | None = None
    why_not: str = ""


@dataclass(frozen=True)
class Row:
    """One rung, tried or not."""

    name: str
    choice: Choice
    trial: Trial | None = None
    problem: str = ""
    """Why it was not tried, or did not end."""
    kept: bool = False
    again: bool = False
    """Whether it is the first rung once more."""


@dataclass
class Ladder:
    """The rows so far, and where they lead."""

    rows: list[Row] = field(default_factory=list)

    @property
    def best(self) -> Row | None:
        """The last that was kept."""
        return next((row for row in reversed(self.rows) if row.kept), None)

    @property
    def drift(self) -> float | None:
        """By which share the first rung's speed had changed at the end."""
        trials = [row.trial for row in self.rows if row.trial is not None]
        if not (self.rows and self.rows[-1].again and trials[-1:] and len(trials) > 1):
            return None
        return trials[-1].tokens_per_second / trials[0].tokens_per_second - 1


def climb(settings: Settings, device: torch.device, measure: Measure, seconds: float = 5.0) -> Iterator[Row]:
    """Tries the rungs in the lecture's order and yields each as it is known. The settings' own levers are left aside."""
    at, first, context = None, None, settings.model.context_length
    base = Choice(settings, padded=False).edited(*_BARE, f"train.optimizer={_written_out(settings)}")
    size = _first_size(base.settings, device)
    while at is None:  # the first has to fit
        row = _try(Rung("fp32, as it is written", _batch(context, size, size)), base, measure, seconds)
        if row.trial is None and size > 1 and "memory" in row.problem:
            yield replace(row, problem=f"{row.problem}; trying half")
            size = largest_micro_batch(size, size // 2)
            continue
        yield replace(row, kept=row.trial is not None)
        if row.trial is None:
            return
        at = first = row
    for rung in rungs(at.choice.settings, device):
        row = _try(rung, at.choice, measure, seconds)
        at, row = _judged(at, row)
        yield row
    for row in _micro_batches(at.choice, settings, size, device, measure, seconds):
        at, row = _judged(at, row)
        yield row
    assert first is not None
    yield replace(_try(Rung(first.name), first.choice, measure, seconds), again=True)


def rungs(settings: Settings, device: torch.device) -> Iterator[Rung]:
    """All but the first, and the micro-batches, which follow."""
    cuda = device.type == "cuda"
    yield Rung("TF32", ("machine.precision=tf32",), why_not="" if cuda else f"{device.type} has no TF32")
    sixteen = machine.choose_precision(device)
    name = "bf16" if sixteen == "fp32" else sixteen
    yield Rung(name, (f"machine.precision={name}",), why_not="this processor has no instructions for it" if sixteen == "fp32" else "")
    yield Rung("compiled blocks", ("machine.compile=true",))
    yield Rung("attention by rule", ("machine.attention=rule",))
    yield Rung("attention by torch (SDPA)", ("machine.attention=fused",))
    slow = "" if cuda else "Triton's kernels need CUDA"
    lacking = "it has no dropout" if settings.model.dropout else ""
    yield Rung("attention of our own (Triton)", ("machine.attention=daybreak",), why_not=slow or lacking)
    yield Rung(f"vocabulary padded to {settings.model.padded_vocab_size:,}", padded=True)
    written, kernel = settings.train.optimizer, settings.train.optimizer.removesuffix("-plain")
    there_is_one = "" if written != kernel else f"{kernel} has one form only"
    yield Rung("optimizer by torch", (f"train.optimizer={kernel}",), why_not=there_is_one)
    whole = settings.train.z_loss or settings.model.logit_softcap
    yield Rung("loss in chunks of 1,024 tokens", ("machine.loss_chunk=1024",), why_not="this loss needs whole logits" if whole else "")


def edits_of(best: Choice, recipe: Settings, device: torch.device) -> list[str]:
    """What to add to the recipe to train as the best rung did; what would be chosen anyway is left out."""
    automatic = {"machine.precision": machine.choose_precision(device), "machine.attention": "rule"}
    edits = []
    for path in ("machine.precision", "machine.compile", "machine.attention", "machine.loss_chunk", "train.optimizer", "train.micro_batch"):
        section, _, name = path.partition(".")
        value, was = (getattr(getattr(each, section), name) for each in (best.settings, recipe))
        if value != was and not (was == "auto" and value == automatic.get(path)):
            edits.append(f"{path}={str(value).lower()}")
    return edits


def _written_out(settings: Settings) -> str:
    """The optimizer of the settings as it is written out to be read, where it is."""
    plain = f"{settings.train.optimizer.removesuffix('-plain')}-plain"
    return plain if plain in OPTIMIZERS else settings.train.optimizer


def _first_size(settings: Settings, device: torch.device) -> int:
    """A micro-batch that fits without any lever, and divides the run's batch."""
    return micro_batch(config.edit(settings, ["train.micro_batch=none"]), device, "fp32")


def _batch(context_length: int, sequences: int, micro: int) -> tuple[str, str]:
    """Edits for a step of so many sequences, in micro-batches of `micro`."""
    return (f"train.batch_tokens={sequences * context_length}", f"train.micro_batch={micro}")


def _micro_batches(on: Choice, recipe: Settings, size: int, device: torch.device, measure: Measure, seconds: float) -> Iterator[Row]:
    """Micro-batches about the first one's size, in steps of the same number of sequences, so that the optimizer's share is the same."""
    context, plan = on.settings.model.context_length, recipe.train
    share = (plan.batch_start_tokens or plan.batch_tokens) // context
    larger = range(1, 5) if device.type == "cuda" else range(1, 2)
    sizes = sorted({largest_micro_batch(size, size // 2), size, *(size << more for more in larger if share % (size << more) == 0)})
    most = sizes[-1]
    for each in sizes:
        row = _try(Rung(f"micro-batch {each}, {most} a step", _batch(context, most, each)), on, measure, seconds)
        yield row
        if row.trial is None:  # a larger one will not fit either
            return


def _try(rung: Rung, on: Choice, measure: Measure, seconds: float) -> Row:
    if rung.why_not:
        return Row(rung.name, on, problem=rung.why_not)
    choice = on.edited(*rung.edits, padded=rung.padded)
    try:
        return Row(rung.name, choice, measure(choice.settings, seconds, choice.padded))
    except OutOfMemory as error:
        return Row(rung.name, choice, problem=f"out of memory: {error}")
    except TrialFailed as error:
        return Row(rung.name, choice, problem=f"failed: {error}")


def _judged(at: Row, row: Row) -> tuple[Row, Row]:
    """Where the ladder stands after a rung, and the rung with the verdict."""
    assert at.trial is not None
    if row.trial is None or row.trial.tokens_per_second < PAYS * at.trial.tokens_per_second:
        return at, row
    row = replace(row, kept=True)
    return row, row

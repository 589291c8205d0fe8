"""What a run chooses by looking at its machine: the micro-batch and the attention kernels. Noted in its metrics, and kept when it resumes.

Either may change the rounding, so a run that goes on has to compute as it began: the same bits are promised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from daybreak import machine, metrics
from daybreak.model import fastest
from daybreak.model.attention import KERNELS, Kernel
from daybreak.opening import micro_batch
from daybreak.settings import Settings
from daybreak.training.parallel import Layout
from daybreak.world import World

_NOTES = ("start", "resume", "micro_batch")
"""The events that say what was chosen."""


@dataclass(frozen=True)
class Chosen:
    """The choices of a run."""

    micro_batch: int
    attention: Mapping[str, str]
    """Which kernel dense layers have and which banded ones."""

    def kernel(self, settings: Settings) -> Kernel:
        """The attention of a run with these settings."""
        if settings.machine.attention != "auto":
            return KERNELS[settings.machine.attention]
        return fastest.kernel(self.attention, settings.model.context_length)

    def as_dict(self) -> dict[str, Any]:
        """As the metrics note it."""
        return asdict(self)


def choose(
    settings: Settings, device: torch.device, precision: machine.Precision, layout: Layout, world: World, out: Path | None = None
) -> Chosen:
    """The same for all processes, which all call this: as the run in `out` has noted it, else what is found now."""
    noted = world.agree(_noted(out, device, precision) if out is not None and world.leads else {})
    plan, share = settings.train, _share(settings, world)
    size = plan.micro_batch or noted.get("micro_batch", 0)
    if not size or share % size:
        size = -world.highest(-micro_batch(settings, device, precision, world, layout))[0]  # the least that any has room for
        size = next(each for each in range(size, 0, -1) if share % each == 0)
    names = noted.get("attention")
    if not _are_kernels(names):
        names = world.agree(_kernels(settings, device, precision, size) if world.leads else {})
    return Chosen(size, names)


def _share(settings: Settings, world: World) -> int:
    """How many sequences of the smallest batch one process computes."""
    plan = settings.train
    return (plan.batch_start_tokens or plan.batch_tokens) // settings.model.context_length // world.size


def _kernels(settings: Settings, device: torch.device, precision: machine.Precision, size: int) -> dict[str, str]:
    shape = settings.model
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    wanted = {"dense": None, "banded": shape.attention_band}
    used = {"dense" if shape.band(layer) is None else "banded" for layer in range(shape.n_layer)}
    if settings.machine.attention != "auto" or shape.dropout:
        return dict.fromkeys(wanted, fastest.RULE)
    return {
        name: fastest.choose(
            fastest.Shape(device, dtype, size, shape.n_head, shape.context_length, shape.head_size, band, compiled=settings.machine.compile)
        )
        if name in used
        else fastest.RULE
        for name, band in wanted.items()
    }


def _are_kernels(names: Any) -> bool:
    return isinstance(names, dict) and set(names) == {"dense", "banded"} and set(names.values()) <= set(fastest.KERNELS)


def _noted(out: Path, device: torch.device, precision: str) -> dict[str, Any]:
    """What the newest note of a run says, if it was on such a device."""
    path, noted = out / "metrics.jsonl", dict[str, Any]()
    for event in metrics.read(path) if path.is_file() else ():
        if event["event"] == "start":
            noted = {}
        if event["event"] in _NOTES:
            noted |= event
    same = (noted.get("device"), noted.get("precision")) == (machine.device_name(device), precision)
    size = noted.get("micro_batch")
    return {"micro_batch": size if isinstance(size, int) and size > 0 else 0, "attention": noted.get("attention")} if same else {}

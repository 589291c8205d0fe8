"""What a run says before its first step: its size, its work, its machine, how long it will take, and a piece of what it will read."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from daybreak.settings import Settings

Event = dict[str, Any]
Rows = list[tuple[str, str]]

_CHARACTERS = 240
_REACHED = 0.4
"""The share of the speed of one product of matrices that training is taken to reach on a CPU; small models reach less."""
_PROBE_SECONDS = 0.1


def plan(event: Event) -> Rows:
    """What `start` and `resume` say of the run."""
    rows = [
        ("model", f"{event['parameters'] / 1e6:.2f}M parameters, {event['flops_per_token'] / 1e6:,.0f} MFLOP a token"),
        ("training", f"{event['train_tokens'] / 1e6:.2f}M tokens in {event['steps']:,} steps, {event['epochs']} epochs of the text"),
        ("machine", f"{event['device']}, {event['precision']}, torch {event['torch']}"),
    ]
    if event["event"] == "resume":
        rows += [("rejected", reason) for reason in event["rejected"]]
        rows.append(("resuming", f"after step {event['step']:,} from {event['path']}"))
    if "wandb" in event:
        rows.append(("wandb", event["wandb"]))
    return rows


def time_row(event: Event, speed: float | None, source: str) -> Rows:
    """How long the run will take at so many FLOP a second."""
    if not speed:
        return []
    seconds = event["flops_per_token"] * (event["train_tokens"] - event["tokens"]) / speed
    return [("time", f"about {_roughly(seconds)}, {source}")] if seconds > 0 else []


def expected_speed(event: Event, device: torch.device, past: Iterable[Event]) -> tuple[float | None, str]:
    """The FLOP a second to expect, and from what: the run's own speed so far, a known device's peak, or a short measurement of a CPU."""
    from daybreak import devices
    from daybreak.planning import UTILISATION

    speeds = [earlier["tokens_per_second"] for earlier in past if earlier["event"] == "step" and earlier.get("tokens_per_second")]
    if speeds:
        return event["flops_per_token"] * statistics.median(speeds[-100:]), "at its speed so far"
    known = devices.reported(str(event["device"]))
    if known is not None:
        return known.peak_flops * UTILISATION * event.get("devices", 1), f"if it reaches {UTILISATION} of the device's peak"
    if device.type != "cpu":
        return None, ""
    return _product_speed(event["precision"]) * _REACHED * event.get("devices", 1), "by how fast this processor multiplies"


def text_row(settings: Settings) -> Rows:
    """The beginning of a document, as the model will read it."""
    from pathlib import Path

    from daybreak.data.inspection import sample_documents

    texts: Sequence[str] = sample_documents(Path(settings.data.dir), "train", 1, _CHARACTERS, seed=settings.train.seed)
    flat = " ".join(texts[0].split()) if texts else ""
    return [("text", f"{flat} ..." if len(texts[0]) == _CHARACTERS else flat)] if flat else []


def _product_speed(precision: str) -> float:
    """FLOP a second of products of matrices, measured for a moment."""
    import torch

    dtype = {"bf16": torch.bfloat16}.get(precision, torch.float32)
    size = 512
    one = torch.ones(size, size, dtype=dtype)  # not drawn at random: the run's own generator stays where it is
    torch.mm(one, one)
    quickest, began = math.inf, time.perf_counter()  # of many, as others may want the processor too
    while (started := time.perf_counter()) - began < _PROBE_SECONDS:
        torch.mm(one, one)
        quickest = min(quickest, time.perf_counter() - started)
    return 2 * size**3 / quickest


def _roughly(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{max(1, round(seconds))} seconds" if seconds > 1.5 else "a second"

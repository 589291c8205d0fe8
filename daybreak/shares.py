"""What share of the machine's speed a training step reaches: of the matrix products measured here, and of the maker's figure.

A share above 1 is none: it says that work was counted that was not done, or that the ceiling was measured too low. The count of
operations holds the masked half of attention, which a good kernel leaves out, so with a long context and a small model that happens; then
only the work that cannot be left out is counted, and if that is still above, the share is not told at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from daybreak import ceiling, machine
from daybreak.ladder import Row
from daybreak.model.config import GPTConfig
from daybreak.model.flops import flops_per_token


@dataclass(frozen=True)
class Share:
    """Shares from 0 to 1; None where there is none to tell."""

    of_ceiling: float | None
    of_peak: float | None
    note: str = ""
    """What is odd about them."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON, where what is not known is "unknown"."""
        return {"share_of_ceiling": _plain(self.of_ceiling), "share_of_peak": _plain(self.of_peak)}

    @staticmethod
    def written(share: float | None) -> str:
        """For a person."""
        return "unknown" if share is None else f"{share:.1%}"


@dataclass(frozen=True)
class Ceilings:
    """How fast a device multiplies matrices."""

    device: torch.device
    measured: Mapping[str, float]
    """By number format, operations a second."""
    peak: float | None
    """What the maker says, for 16 bits; None for a device that the table does not know."""

    @staticmethod
    def measure(device: torch.device) -> Ceilings:
        """In fp32, and in the 16-bit format that the device does really well; about a second for each."""
        formats = dict.fromkeys((machine.choose_precision(device), "fp32"))
        return Ceilings(device, {name: ceiling.matmul_flops(device, name) for name in formats}, machine.peak_flops(device))

    def again(self) -> Ceilings:
        """Measured once more; the higher figures count, as a rate that was reached once is a rate."""
        measured = {name: max(flops, ceiling.measure(self.device, name)) for name, flops in self.measured.items()}  # type: ignore[arg-type]
        return Ceilings(self.device, measured, self.peak)

    @property
    def highest(self) -> float:
        """What all rungs are measured against, whatever they compute in."""
        return max(self.measured.values())

    def shares(self, shape: GPTConfig, rows: Sequence[Row]) -> list[Share | None]:
        """Of each rung; None for one that was not measured."""
        return [None if row.trial is None else self.share(shape, row.trial.tokens_per_second) for row in rows]

    def share(self, shape: GPTConfig, tokens_per_second: float) -> Share:
        """Of one speed."""
        note = ""
        reached = tokens_per_second * flops_per_token(shape)
        if reached > self.highest:
            seen = tokens_per_second * least_flops_per_token(shape)
            note = f"{reached / self.highest:.0%} of the ceiling, if the masked half of attention counts as work; shares leave it out"
            if seen > self.highest:
                note = (
                    f"{seen / self.highest:.0%} of the ceiling cannot be: it was measured too low, while something else ran; measure again"
                )
            reached = seen
        of_peak = None if self.peak is None else _at_most_all(reached / self.peak)
        return Share(_at_most_all(reached / self.highest), of_peak, note)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"ceiling_flops": dict(self.measured), "peak_flops": "unknown" if self.peak is None else self.peak}


def least_flops_per_token(shape: GPTConfig) -> float:
    """As `flops_per_token`, with half of the square in each layer: a dense layer's query sees half of the keys on average."""
    attention = (
        12
        * shape.d_model
        * sum(
            shape.context_length if band is None else min(shape.context_length, 2 * band) for band in map(shape.band, range(shape.n_layer))
        )
    )
    return flops_per_token(shape) - attention / 2


def _at_most_all(share: float) -> float | None:
    return share if share <= 1 else None


def _plain(share: float | None) -> float | str:
    return "unknown" if share is None else round(share, 4)

"""Several optimizers as one: their groups in one list and their state in one dict, so that saving one saves all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from daybreak.training.optimizers.guarded import StepsIf, guarded_step


class Together(StepsIf):
    """Each part keeps the groups that it was made with; a change to a group here is a change there."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._link()

    def step_if(self, accepted: Tensor | None) -> None:
        """The step of every part, by the same verdict."""
        for part in self.parts:
            if accepted is None:
                part.step()
            else:
                guarded_step(part, accepted)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._link()

    def _link(self) -> None:
        """Has the parts work on these very groups and this very state, which loading replaces."""
        first = 0
        for part in self.parts:
            count = len(part.param_groups)
            part.param_groups = self.param_groups[first : first + count]
            part.state = self.state
            first += count

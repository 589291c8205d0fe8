"""Keeps a broken step out of the weights, and says when only going back helps.

A loss or gradient that is not finite is refused, and so is one that stands far above those of the steps before (a spike). All of it is
decided on the device, which nobody waits for: loss and gradient norm are the same on every rank, so is the verdict. Too many
refusals ask for a rollback: to weights from before the trouble, and past the data that it came with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

WINDOW = 128
"""How many accepted steps a spike is measured against; until there are as many, only what is not finite is refused."""
_FLOORS = (0.02, 0.2)
"""The least that counts as a usual deviation: 2 % of the loss, and a factor of 1.2 in the gradient norm."""


class TrainingFailed(RuntimeError):
    """The run cannot go on; the message says why and what helps."""


@dataclass(frozen=True)
class Trouble:
    """Steps whose refusals together ask for a rollback."""

    first: int
    """The first step refused; a checkpoint of at most this many steps done is from before the trouble."""
    last: int
    said: str
    """What happened, for people."""


class Troubled(TrainingFailed):
    """Only going back helps. The run fails with this message unless somebody goes back."""

    def __init__(self, trouble: Trouble, tried: str = "") -> None:
        super().__init__(
            f"{trouble.said}{tried}; begin a new run with a lower train.learning_rate, or go on from the last checkpoint with "
            "machine.precision=fp32"
        )
        self.trouble = trouble


class Verdict(NamedTuple):
    """What the guard decided about a step, on the device."""

    accepted: Tensor
    """() bool: whether the step's gradient may be used."""
    finite: Tensor
    """() bool: whether loss and gradient norm are."""
    figures: Tensor
    """(7,) all that the host wants to hear of the step, to be copied at once; `Guard.tell` reads it."""


@dataclass(frozen=True)
class Told:
    """A verdict as the host reads it, perhaps a step late."""

    loss: float
    grad_norm: float
    accepted: bool
    reason: str = ""
    """Why the step was refused; empty if it was accepted."""
    trouble: Trouble | None = None
    """Set when only going back helps."""


class Guard:
    """Decides for each step whether its gradient may be used. Its state is a value: a resumed run decides as one that never stopped."""

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        spike: float | None = 8.0,
        patience: int = 20,
        budget: int = 32,
        per: int = 256,
    ) -> None:
        """A spike lies `spike` robust standard deviations above the median (None: look for none). A rollback is asked for after
        `patience` refusals in a row, or when more than `budget` of `per` steps were refused."""
        self.spike, self.patience, self.budget, self.per = spike, patience, budget, per
        self._window = torch.zeros(2, WINDOW, device=device)  # of losses, and of logarithms of gradient norms
        self._floors = torch.tensor(_FLOORS, device=device)
        self._places = torch.arange(WINDOW, device=device)
        self._accepted, self._in_a_row = torch.zeros(2, dtype=torch.int64, device=device)  # accepted counts all since the run began
        self._refused = torch.full((budget,), -per, device=device)  # the latest refused steps, oldest first
        self._counts = torch.zeros(2, dtype=torch.int64, device=device)  # refused as not finite, as spikes

    @torch.no_grad()
    def judge(self, step: int, loss: Tensor, grad_norm: Tensor) -> Verdict:
        """The verdict on a step from its () loss and () gradient norm before clipping. Waits for nothing."""
        finite = torch.isfinite(loss) & torch.isfinite(grad_norm)
        # A gradient norm varies by factors: its logarithm is as even above as below.
        now = torch.stack([loss.float(), grad_norm.float().clamp_min(1e-30).log()])
        score = self._score(now)
        spiked = finite & (self._accepted >= WINDOW) & (score > (self.spike or torch.inf)).any()
        accepted = finite & ~spiked

        # Selected, never multiplied: 0 times NaN is NaN.
        taken = accepted & (self._places == self._accepted % WINDOW)
        self._window = torch.where(taken, now[:, None], self._window)
        self._accepted = self._accepted + accepted
        self._in_a_row = torch.where(accepted, 0, self._in_a_row + 1)
        self._counts = self._counts + torch.stack([~finite, spiked])
        since_oldest = step - self._refused[0] + 1
        self._refused = torch.where(accepted, self._refused, torch.cat([self._refused[1:], torch.full_like(self._refused[:1], step)]))

        out_of_patience = torch.where(self._in_a_row >= self.patience, self._in_a_row, 0)
        out_of_budget = torch.where(~accepted & (since_oldest <= self.per), since_oldest, 0)
        trouble = torch.maximum(out_of_patience, out_of_budget)
        figures = torch.stack([loss.float(), grad_norm.float(), accepted, finite, *score, trouble])
        return Verdict(accepted, finite, figures)

    def tell(self, step: int, figures: list[float]) -> Told:
        """What a verdict on `step` says, from its figures as plain numbers. It does not matter how late they are read."""
        loss, grad_norm, accepted, finite, loss_score, norm_score, trouble = figures
        reason = ""
        if not finite:
            reason = "the loss or the gradient was not finite"
        elif not accepted:
            what, score = ("loss", loss_score) if loss_score >= norm_score else ("gradient norm", norm_score)
            reason = f"the {what} was {score:.1f} robust deviations above the median of {WINDOW} steps"
        if not trouble:
            return Told(loss, grad_norm, bool(accepted), reason)
        in_a_row = int(trouble) == self.patience
        said = f"{reason} for {self.patience} steps in a row" if in_a_row else f"more than {self.budget} of {self.per} steps were refused"
        return Told(loss, grad_norm, False, reason, Trouble(step + 1 - int(trouble), step, said))

    def counts(self) -> dict[str, int]:
        """How many steps were refused since the run began, by reason. Waits for the device."""
        return dict(zip(("not_finite", "spikes"), self._counts.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """All that the next verdicts depend on, as JSON; its numbers come back bit by bit. Waits for the device."""
        return {
            "window": self._window.tolist(),
            "accepted": self._accepted.item(),
            "in_a_row": self._in_a_row.item(),
            "refused": self._refused.tolist(),
            "counts": self._counts.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state. Raises ValueError if it is of a guard with another window or budget."""
        held = {"window": self._window, "accepted": self._accepted, "in_a_row": self._in_a_row}
        held |= {"refused": self._refused, "counts": self._counts}
        for name, tensor in held.items():
            value = torch.tensor(state[name], dtype=tensor.dtype, device=tensor.device)
            if value.shape != tensor.shape:
                raise ValueError(
                    f"guard: wanted {name} of shape {tuple(tensor.shape)}, came {tuple(value.shape)}; keep the guard's settings"
                )
            setattr(self, f"_{name}", value)

    def _score(self, now: Tensor) -> Tensor:
        """(2,) how many robust standard deviations loss and log gradient norm lie above the window's median.

        The median absolute deviation times 1.4826 is a normal distribution's standard deviation, and one spike among many does not move it.
        """
        middle = WINDOW // 2
        median = self._window.sort(dim=1).values[:, middle]
        deviation = 1.4826 * (self._window - median[:, None]).abs().sort(dim=1).values[:, middle]
        floors = self._floors * torch.stack([median[0].abs(), torch.ones_like(median[1])])
        return (now - median) / torch.maximum(deviation, floors)

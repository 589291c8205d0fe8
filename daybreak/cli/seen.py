"""What is known of a run from its events so far: the figures that a view of it shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from daybreak.cli.drawing import Curve

Event = Mapping[str, Any]

_STEADY = 20
"""Over how many steps figures that jump from step to step are averaged."""
_MOST_WARNINGS = 20


class Seen:
    """A run as its events tell it. Figures that are not known yet are None."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.state = "running"
        """running, finishing, finished, or stopped."""
        self.step = self.steps = self.tokens = self.train_tokens = 0
        self.loss: float | None = None
        self.losses = Curve()
        self.val_loss: float | None = None
        self.bits_per_byte: float | None = None
        self.val_losses = Curve(64)
        self.learning_rate: float | None = None
        self.grad_norm: float | None = None
        self.tokens_per_second: float | None = None
        self.flops_per_token = 0
        self.peak_flops: float | None = None
        """Of all devices together."""
        self.sample: tuple[int, str, str] | None = None
        """Step, prompt and text."""
        self.saved: tuple[int, float] | None = None
        """Step and moment of the last checkpoint."""
        self.warnings: list[str] = []
        self.began = clock()
        self.ended: float | None = None
        self._seconds_per_token: float | None = None
        self._rate_from: tuple[float, int] | None = None

    def event(self, event: Event) -> None:
        """Takes in one event."""
        self.step, self.tokens = event.get("step", self.step), event.get("tokens", self.tokens)
        kind = event["event"]
        if kind in ("start", "resume"):
            self._begin(event)
        elif kind == "step":
            self._step(event)
        elif kind in ("eval", "end"):
            self.val_loss, self.bits_per_byte = event["val_loss"], event["bits_per_byte"]
            self.val_losses.add(event["val_loss"])
        elif kind == "sample":
            self.sample = (event["step"], event["prompt"], event["text"])
        elif kind == "checkpoint":
            self.saved = (event["step"], self._clock())
        if kind in ("end", "stop"):
            self.state, self.ended = "finished" if kind == "end" else "stopped", self._clock()
        for warning in self._warnings(event):
            self.warnings = [*self.warnings, warning][-_MOST_WARNINGS:]

    def past(self, event: Event) -> None:
        """Takes in an event from before the run was resumed."""
        if event["event"] == "step" and isinstance(event.get("loss"), float):
            self._figures(event)
        elif event["event"] == "eval" and isinstance(event.get("val_loss"), float):
            self.val_loss, self.bits_per_byte = event["val_loss"], event.get("bits_per_byte")
            self.val_losses.add(event["val_loss"])

    @property
    def share(self) -> float:
        """How much of the run is done, by tokens."""
        return self.tokens / self.train_tokens if self.train_tokens else 0.0

    @property
    def seconds(self) -> float:
        """Since the run was begun or resumed, until its end."""
        return (self._clock() if self.ended is None else self.ended) - self.began

    @property
    def seconds_left(self) -> float | None:
        """At the speed so far, all that comes between the steps included; at the steps' own speed in the first minute."""
        if self._seconds_per_token is None or self.state != "running":
            return None
        each = self._seconds_per_token
        if self._rate_from is not None:
            since, tokens = self._rate_from
            passed = self._clock() - since
            if passed > 60 and self.tokens > tokens:
                each = passed / (self.tokens - tokens)
        return each * (self.train_tokens - self.tokens)

    @property
    def flops(self) -> float | None:
        """Operations a second, as the model's FLOPs count them."""
        return self.tokens_per_second * self.flops_per_token if self.tokens_per_second and self.flops_per_token else None

    def seconds_since_saved(self) -> float | None:
        """How long ago the last checkpoint was written."""
        return None if self.saved is None else self._clock() - self.saved[1]

    def _begin(self, event: Event) -> None:
        from daybreak import devices

        self.steps, self.train_tokens = event["steps"], event["train_tokens"]
        self.flops_per_token = event.get("flops_per_token", 0)
        known = devices.reported(str(event.get("device", "")))
        peak = event.get("peak_flops", known.peak_flops if known else None)
        self.peak_flops = None if peak is None else peak * event.get("devices", 1)
        self.state, self.began, self.ended = "running", self._clock(), None
        self._rate_from = None

    def _step(self, event: Event) -> None:
        self._figures(event)
        now, speed = self._clock(), event["tokens_per_second"]
        if self._rate_from is None:  # the first step has the warming up, which does not come again
            self._rate_from = (now, event["tokens"])
        elif speed > 0:
            each = 1 / speed
            before = self._seconds_per_token
            self._seconds_per_token = each if before is None else before + (each - before) / _STEADY
        self.tokens_per_second = speed if self._seconds_per_token is None else 1 / self._seconds_per_token
        if self.step == self.steps:
            self.state = "finishing"

    def _figures(self, event: Event) -> None:
        loss = event["loss"]
        self.loss = loss if self.loss is None else self.loss + (loss - self.loss) / _STEADY
        self.losses.add(loss)
        self.learning_rate, self.grad_norm = event.get("learning_rate"), event.get("grad_norm")

    @staticmethod
    def _warnings(event: Event) -> list[str]:
        told = []
        if event["event"] == "skip":
            told.append(f"step {event['step']:,} left out: {event['reason']}")
        if event["event"] == "rollback":
            told.append(f"went back to step {event['step']:,}: {event['reason']}")
        if event["event"] == "resume":
            told += [f"rejected {reason}" for reason in event["rejected"]]
        if "warning" in event:
            told.append(event["warning"])
        return told

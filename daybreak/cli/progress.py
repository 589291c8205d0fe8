"""A run on the terminal: a live line where there is one, plain lines where output goes to a file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from daybreak.cli import speak

if TYPE_CHECKING:
    from rich.console import Console

Event = dict[str, Any]

_PLAIN_SECONDS = 10.0


class Show(Protocol):
    """Shows a run's events as they come."""

    def event(self, event: Event) -> None:
        """One event of `story.events`."""


class Quiet(contextlib.AbstractContextManager["Quiet"]):
    """Shows nothing."""

    def event(self, event: Event) -> None:
        """Does nothing."""

    def __exit__(self, *_: object) -> None:
        pass


class Plain:
    """Lines for a file or a pipe: a step every few seconds, and everything that is not a step."""

    def __init__(self) -> None:
        self._said = 0.0
        self._steps = 0

    def event(self, event: Event) -> None:
        """Says what the event is, or nothing if it is a step too soon after the last."""
        self._steps = event.get("steps", self._steps)
        if event["event"] == "step":
            if time.monotonic() - self._said < _PLAIN_SECONDS and event["step"] != self._steps:
                return
            self._said = time.monotonic()
        speak.say(_line(event, self._steps))


class Live:
    """A progress bar under the lines of what happened."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = console
        self._loss: float | None = None
        self._bar = Progress(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            transient=True,
            speed_estimate_period=60,
        )
        self._task = self._bar.add_task("train", total=None, start=False, visible=False, figures="")

    def event(self, event: Event) -> None:
        """Moves the bar on a step, writes a line for anything else."""
        kind = event["event"]
        if kind in ("start", "resume"):
            self._tell(event)
            self._bar.start()
            self._bar.update(self._task, total=event["steps"], completed=event["step"], visible=True)
            self._bar.start_task(self._task)
        elif kind == "step":
            # Averaged over some twenty steps, as single batches differ by more than a step's progress.
            self._loss = event["loss"] if self._loss is None else 0.95 * self._loss + 0.05 * event["loss"]
            figures = f"{event['tokens'] / 1e6:.2f}M tokens  loss {self._loss:.3f}  {event['tokens_per_second']:,.0f} tokens/s"
            self._bar.update(self._task, completed=event["step"], figures=figures)
        else:
            self._tell(event)

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.stop()

    def _tell(self, event: Event) -> None:
        from rich.markup import escape

        if event["event"] == "sample":
            prompt, text = escape(_flat(event["prompt"])), escape(_flat(event["text"]))
            self._console.print(f"[dim]sample[/]    [bold]{prompt}[/]{text}", soft_wrap=True, emoji=False)
        else:
            self._console.print(escape(_line(event, 0)), soft_wrap=True, emoji=False)


@contextlib.contextmanager
def watching(console: Console) -> Iterator[Show]:
    """A live view on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield Plain()
        return
    live = Live(console)
    try:
        yield live
    finally:
        live.close()


def _line(event: Event, steps: int) -> str:
    """An event in a line, or a few for the first."""
    kind, step = event["event"], event["step"]
    if kind in ("start", "resume"):
        return _beginning(event)
    if kind == "step":
        return (
            f"step      {step:,}/{steps:,}  {event['tokens'] / 1e6:.2f}M tokens  loss {event['loss']:.4f}  "
            f"lr {event['learning_rate']:.2e}  {event['tokens_per_second']:,.0f} tokens/s"
        )
    if kind == "eval":
        return f"eval      step {step:,}: validation loss {event['val_loss']:.4f}, bits per byte {event['bits_per_byte']:.3f}"
    if kind == "sample":
        return f"sample    {_flat(event['prompt'])}{_flat(event['text'])}"
    if kind == "checkpoint":
        return f"saved     {event['path']}" + (f"\nwarning   {event['warning']}" if "warning" in event else "")
    if kind == "tasks":
        return "\n".join(_task(name, told) for name, told in event["tasks"].items())
    if kind == "probe":
        norms, logits = event["gradient_norm"], event["attention_logit"]
        most, highest = max(norms, key=norms.__getitem__), max(logits, key=logits.__getitem__)
        told = f"largest gradient {norms[most]:.3g} ({most}), largest attention logit {logits[highest]:.3g} ({highest})"
        return f"probe     step {step:,}: {told}"
    if kind == "rollback":
        return f"went back to step {step:,} and leaves out the data of steps {'{:,} to {:,}'.format(*event['without'])}: {event['reason']}"
    if kind == "skip":
        return f"skipped   step {step:,}: {event['reason']}"
    if kind == "stop":
        return f"stopping  {event['reason']} after step {step:,}"
    return f"done      step {step:,}: validation loss {event['val_loss']:.4f}, bits per byte {event['bits_per_byte']:.3f}"


def _beginning(event: Event) -> str:
    lines = [
        f"model     {event['parameters'] / 1e6:.2f}M parameters, {event['flops_per_token'] / 1e6:,.0f} MFLOP a token",
        f"training  {event['train_tokens'] / 1e6:.2f}M tokens in {event['steps']:,} steps, {event['epochs']} epochs of the text",
        f"machine   {event['device']}, {event['precision']}, torch {event['torch']}",
    ]
    if event["event"] == "resume":
        lines += [f"rejected  {reason}" for reason in event["rejected"]]
        lines.append(f"resuming  after step {event['step']:,} from {event['path']}")
    return "\n".join(lines)


def _task(name: str, told: dict[str, Any]) -> str:
    figures = (
        f"{metric} {row['value']:.4f}" + ("" if row["stderr"] is None else f" ± {row['stderr']:.4f}")
        for metric, row in told["metrics"].items()
    )
    return f"task      {name} ({told['protocol']}, {told['n']:,} items): {', '.join(figures)}"


def _flat(text: str) -> str:
    """A text as a block beside its name, harmless for a terminal."""
    return speak.harmless(text).replace("\n", "\n          ")

"""A run on the terminal: a live view where there is one, plain lines where output goes to a file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from daybreak.cli import beginning, speak

if TYPE_CHECKING:
    from rich.console import Console

Event = dict[str, Any]
Rows = Sequence[tuple[str, str]]
"""Lines with a name before each."""

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

    def __init__(self, more: Callable[[Event], Rows] = lambda event: []) -> None:
        """`more`: what to say of a start besides what it tells."""
        self._more = more
        self._said = 0.0
        self._steps = 0

    def event(self, event: Event) -> None:
        """Says what the event is, or nothing if it is a step too soon after the last."""
        self._steps = event.get("steps", self._steps)
        if "warning" in event:
            speak.say(f"warning   {event['warning']}")
        if event["event"] == "step":
            if time.monotonic() - self._said < _PLAIN_SECONDS and event["step"] != self._steps:
                return
            self._said = time.monotonic()
        speak.say(_line(event, self._steps))
        if event["event"] in ("start", "resume") and (rows := self._more(event)):
            speak.say(_rows(rows))


@contextlib.contextmanager
def watching(
    console: Console,
    *,
    more: Callable[[Event], Rows] = lambda event: [],
    past: Callable[[], Iterable[Event]] = tuple,
    memory: Callable[[], tuple[int, int | None]] | None = None,
) -> Iterator[Show]:
    """A live view on a terminal that can move its cursor, plain lines elsewhere.

    `more`: what to say of a start besides what it tells. `past`: what a run that is resumed had told before. `memory`: bytes in use, and
    all that there are.
    """
    if not console.is_terminal or console.is_dumb_terminal or console.legacy_windows or not console.encoding.startswith("utf"):
        yield Plain(more)
        return
    from daybreak.cli.live import Live

    live = Live(
        console,
        beginning=lambda event: [*beginning.plan(event), *more(event)],
        said=lambda event: _line(event, 0),
        past=past,
        memory=memory,
    )
    try:
        yield live
    finally:
        live.close()


def _line(event: Event, steps: int) -> str:
    """An event in a line, or a few for the first."""
    kind, step = event["event"], event["step"]
    if kind in ("start", "resume"):
        return _rows(beginning.plan(event))
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
        return f"saved     {event['path']}"
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
    if kind == "compile":
        return f"compiled  in {event['seconds']:.1f} seconds, which count for no step's speed"
    if kind == "micro_batch":
        how = f"going on with {event['micro_batch']:,} sequences at once; the result is the same but for rounding"
        return f"memory    {event['reason']}: {how}"
    if kind == "stop":
        return f"stopping  {event['reason']} after step {step:,}"
    if kind == "end":
        return f"done      step {step:,}: validation loss {event['val_loss']:.4f}, bits per byte {event['bits_per_byte']:.3f}"
    known = ("event", "step", "tokens", "time", "warning")
    figures = (f"{name.replace('_', ' ')} {value}" for name, value in event.items() if name not in known)
    return f"{'event':10}step {step:,}, {kind.replace('_', ' ')}: {', '.join(figures)}"


def _task(name: str, told: dict[str, Any]) -> str:
    figures = (
        f"{metric} {row['value']:.4f}" + ("" if row["stderr"] is None else f" ± {row['stderr']:.4f}")
        for metric, row in told["metrics"].items()
    )
    return f"task      {name} ({told['protocol']}, {told['n']:,} items): {', '.join(figures)}"


def _rows(rows: Rows) -> str:
    return "\n".join(f"{name:10}{_flat(text)}" for name, text in rows)


def _flat(text: str) -> str:
    """A text as a block beside its name, harmless for a terminal."""
    return speak.harmless(text).replace("\n", "\n          ")

"""Where the events of a run go besides its own record, if asked: TensorBoard and Weights & Biases.

Each is imported when a run begins that wants it. Neither can harm the run: one that fails is told of once and left out from there on.
A run that is resumed goes on in the same TensorBoard folder, with what lay past its checkpoint taken back, and as the same run of W&B.
"""

from __future__ import annotations

import importlib.util
import math
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

Event = Mapping[str, Any]

_BEGINNINGS = ("start", "resume", "rollback")
_FLUSH_SECONDS = 10
_FAREWELL_SECONDS = 60.0
"""How long a sink may take to end; a network that is gone must not keep a finished run from finishing."""

_PACKAGES = {"tensorboard": "log.tensorboard", "wandb": "log.wandb"}


class Sink(Protocol):
    """Takes events as they come."""

    name: str
    """The setting that asked for it."""

    def write(self, event: Event) -> Mapping[str, Any]:
        """Takes one event; returns what is to be told with it, if anything."""

    def close(self) -> None:
        """Ends it."""


def missing(tensorboard: bool, wandb: str | None) -> Iterator[str]:
    """For each sink that is asked for and not installed, what to install."""
    wanted = {"tensorboard": tensorboard, "wandb": wandb is not None}
    for package, setting in _PACKAGES.items():
        if wanted[package] and importlib.util.find_spec(package) is None:
            yield f"{setting}: wanted the package {package}, which is not installed; get it with pip install 'daybreak[{package}]'"


def sinks(folder: Path, settings: Mapping[str, Any], *, tensorboard: bool, wandb: str | None) -> list[Sink]:
    """The sinks of a run in `folder`. Nothing is opened before the first event."""
    made: list[Sink] = []
    if tensorboard:
        made.append(TensorBoard(folder / "tensorboard"))
    if wandb is not None:
        made.append(WeightsAndBiases(folder, wandb, settings))
    return made


class Sinks:
    """Several sinks, none of which can do harm."""

    def __init__(self, wanted: Sequence[Sink]) -> None:
        self._sinks = list(wanted)

    def write(self, event: Event) -> dict[str, Any]:
        """Gives an event to all; returns what they tell with it, a `warning` for one that failed."""
        told: dict[str, Any] = {}
        for sink in [*self._sinks]:
            try:
                told |= sink.write(event)
            except Exception as error:
                self._sinks.remove(sink)
                _farewell(sink)
                warning = f"{sink.name}: left out from here on, as it failed ({_briefly(error)}); the run and its own record go on"
                told["warning"] = f"{told['warning']}; {warning}" if "warning" in told else warning
        return told

    def close(self) -> None:
        """Ends all; a second call does nothing."""
        for sink in self._sinks:
            _farewell(sink)
        self._sinks = []


class TensorBoard:
    """Scalars and samples as TensorBoard's event files: `tensorboard --logdir RUN_DIR/tensorboard`."""

    name = "log.tensorboard"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def write(self, event: Event) -> Mapping[str, Any]:
        """Takes one event."""
        step = event["step"]
        if event["event"] in _BEGINNINGS:
            self._open(0 if event["event"] == "start" else step + 1)
        for name, value in scalars(event).items():
            self._writer.add_scalar(name, value, step)
        if event["event"] == "sample":
            self._writer.add_text("sample", "    " + (event["prompt"] + event["text"]).replace("\n", "\n    "), step)
        if event["event"] in ("eval", "stop", "end"):
            self._writer.flush()
        return {}

    def close(self) -> None:
        """Writes what is still to be written."""
        if self._writer is not None:
            self._writer.close()

    def _open(self, purge_step: int) -> None:
        """Begins a file that takes back all from a step on."""
        from torch.utils.tensorboard import SummaryWriter

        self.close()
        self._writer = SummaryWriter(str(self._folder), purge_step=purge_step, flush_secs=_FLUSH_SECONDS)


class WeightsAndBiases:
    """A run of W&B, whose id is kept in the run's folder. Without a network, or an account, it is kept there to be synchronised later."""

    name = "log.wandb"

    def __init__(self, folder: Path, project: str, settings: Mapping[str, Any]) -> None:
        self._folder, self._project, self._settings = folder, project, settings
        self._run: Any = None

    def write(self, event: Event) -> Mapping[str, Any]:
        """Takes one event; tells where the run can be seen when it begins."""
        told: Mapping[str, Any] = {}
        if event["event"] in ("start", "resume") and self._run is None:
            told = self._begin(new=event["event"] == "start")
        if values := scalars(event):
            self._run.log({**values, "step": event["step"]})
        if event["event"] == "sample":
            self._run.log({"sample": self._html(event["prompt"] + event["text"]), "step": event["step"]})
        return told

    def close(self) -> None:
        """Ends the run of W&B, sent as far as it can be."""
        if self._run is not None:
            self._run.finish()

    def _begin(self, new: bool) -> Mapping[str, Any]:
        import wandb

        from daybreak import files

        path = self._folder / "wandb.json"
        identifier = None if new or not path.is_file() else files.read_json(path).get("id")
        identifier = identifier or secrets.token_hex(4)
        project, team = self._project.rpartition("/")[2], self._project.rpartition("/")[0] or None
        options: dict[str, Any] = {
            "project": project,
            "entity": team,
            "id": identifier,
            "resume": "allow",
            "name": self._folder.name,
            "dir": str(self._folder),
            "config": dict(self._settings),
            "settings": wandb.Settings(silent=True, console="off"),
        }
        warning: dict[str, Any] = {}
        try:
            self._run = wandb.init(**options)
        except Exception as error:  # no account, no network, no such team
            self._run = wandb.init(**options, mode="offline")
            warning = {"warning": f"{self.name}: kept in the run's folder only, as W&B cannot be reached ({_briefly(error)})"}
        files.write_json(path, {"id": identifier, "project": self._project})
        self._run.define_metric("*", step_metric="step")
        place = f"wandb sync {Path(self._run.dir).parent}" if self._run.offline else self._run.url
        return {"wandb": place, **warning}

    @staticmethod
    def _html(text: str) -> Any:
        import html

        import wandb

        return wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False)


def scalars(event: Event) -> dict[str, float]:
    """The numbers of an event under the names by which they are drawn; what is no finite number is left out."""
    kind = event["event"]
    found: dict[str, Any] = {}
    if kind == "step":
        found = {f"train/{name}": event.get(name) for name in ("loss", "grad_norm", "learning_rate", "tokens_per_second", "tokens")}
    elif kind in ("eval", "end"):
        found = {f"validation/{name.removeprefix('val_')}": event.get(name) for name in ("val_loss", "perplexity", "bits_per_byte")}
    elif kind == "tasks":
        rows = [(task, metric, row) for task, told in event["tasks"].items() for metric, row in told["metrics"].items()]
        found = {f"tasks/{task}/{metric}": row["value"] for task, metric, row in rows}
    elif kind == "probe":
        groups = [(name, value) for name, value in event.items() if isinstance(value, Mapping)]
        found = {f"probe/{name}/{part}": number for name, group in groups for part, number in group.items()}
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float) and math.isfinite(value)}


def _farewell(sink: Sink) -> None:
    """Closes a sink in as long as it may take; one that hangs or fails is left to itself."""

    def close() -> None:
        import contextlib

        with contextlib.suppress(Exception):
            sink.close()

    thread = threading.Thread(target=close, daemon=True)
    thread.start()
    thread.join(_FAREWELL_SECONDS)


def _briefly(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]

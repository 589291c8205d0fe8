"""What the page is told about a run, and the figures that it is summed up in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from daybreak.report import words
from daybreak.report.curves import Curve, curves, elapsed, happened, number, task_curve
from daybreak.report.references import Reference, comparable, sentence


@dataclass(frozen=True)
class RunRecord:
    """A run as plain values, read from wherever it is kept."""

    name: str
    """What the run is called on the page."""
    settings: Mapping[str, Any]
    """Every setting, nested as it is saved."""
    events: Sequence[Mapping[str, Any]]
    """The lines of metrics.jsonl in order, also those that a later resume made void."""
    data: Mapping[str, Any] | None
    """The manifest of the data, whole or in part."""
    facts: Mapping[str, Any]
    """What else is known: parameters, device, precision, versions, flops_per_token, and anything more, shown as it comes."""
    recipe: Mapping[str, Any] | None = None
    """Every setting as the run's recipe has it, to show where they differ."""
    references: Sequence[Reference] = ()
    """All that is known of other runs; the page takes those that this one may be set beside."""
    published: Sequence[Mapping[str, Any]] = ()
    """What others got on the run's tasks by the same protocol: task, protocol, metric, model, parameters, value, stderr."""


@dataclass(frozen=True)
class Summary:
    """A run reduced to what the page shows of it. A figure that is not known yet is None."""

    name: str
    record: RunRecord
    events: Sequence[dict[str, Any]]
    """The events that count."""
    seconds_at: Sequence[float]
    """Seconds of training at each of these events."""
    curves: Mapping[str, Curve]
    state: str
    """How the run stands: not begun, under way, stopped or finished."""
    reason: str
    """Why it stopped, if it did and said so."""
    steps: float | None
    tokens: float | None
    seconds: float | None
    parameters: float | None
    flops_per_token: float | None
    tokens_per_second: float | None
    val_loss: float | None
    perplexity: float | None
    bits_per_byte: float | None
    compressors: Mapping[str, float]
    """Bits per byte that general compressors need for the validation text."""
    val_bytes: float | None
    references: Sequence[Reference]
    """What it may be set beside."""
    standing: str
    """How its validation loss stands to them, in a sentence; empty where there is nothing to say."""

    @property
    def device(self) -> str:
        """The machine in words, or nothing."""
        device = self.record.facts.get("device")
        return str(device) if isinstance(device, str) else ""

    @property
    def devices(self) -> float:
        """How many devices it trained on."""
        return number(self.record.facts.get("devices")) or 1

    @property
    def flops(self) -> float | None:
        """Floating point operations of the whole training so far."""
        return self.tokens * self.flops_per_token if self.tokens and self.flops_per_token else None


def summary(record: RunRecord) -> Summary:
    """Reads a run's events once and keeps what the page needs."""
    events = happened(record.events)
    seconds_at = elapsed(events).tolist()
    drawn = curves(events)
    drawn["hellaswag"] = task_curve(events, seconds_at, "hellaswag", "completion", "acc_norm")
    data, parameters = record.data, number(record.facts.get("parameters"))
    beside = comparable(record.references, data, sources(data) if data else [], parameters)
    end: Mapping[str, Any] = next((event for event in reversed(events) if event["event"] == "end"), {})
    state, reason = _state(events)
    val_loss = _final(end, "val_loss", drawn["val_loss"])
    speeds = drawn["tokens_per_second"].values
    compressors = end.get("compressors")
    return Summary(
        name=record.name,
        record=record,
        events=events,
        seconds_at=seconds_at,
        curves=drawn,
        state=state,
        reason=reason,
        steps=_last(events, "step"),
        tokens=_last(events, "tokens"),
        seconds=_first_known(number(end.get("seconds")), seconds_at[-1] if seconds_at else None),
        parameters=parameters,
        flops_per_token=number(record.facts.get("flops_per_token")),
        tokens_per_second=float(np.median(speeds)) if len(speeds) else None,
        val_loss=val_loss,
        perplexity=math.exp(val_loss) if val_loss is not None and val_loss < 50 else None,
        bits_per_byte=_final(end, "bits_per_byte", drawn["bits_per_byte"]),
        compressors={str(name): bits for name, value in compressors.items() if (bits := number(value)) is not None}
        if isinstance(compressors, Mapping)
        else {},
        val_bytes=number(end.get("val_bytes")),
        references=beside,
        standing=sentence(drawn["val_loss"], beside),
    )


def sources(data: Mapping[str, Any]) -> list[str]:
    """What the data was made from, as names."""
    listed = data.get("sources", data.get("source"))
    found = []
    for source in listed if isinstance(listed, list | tuple) else [listed]:
        if isinstance(source, Mapping):
            source = next((source[key] for key in ("name", "source", "path", "url") if source.get(key)), None)
        if source is not None and str(source).strip():
            found.append(str(source))
    return found


def amount(data: Mapping[str, Any], key: str) -> float | None:
    """A figure of the manifest; one that is given for each split is the sum over the splits."""
    value = data.get(key)
    if isinstance(value, Mapping):
        parts = [part for each in value.values() if (part := number(each)) is not None]
        return sum(parts) if parts else None
    return number(value)


def headline(run: Summary) -> str:
    """What was trained on what, in one sentence."""
    if run.state == "not begun":
        return "This run has not begun: there are no events yet."
    model = f"A language model with {words.count(run.parameters)} parameters" if run.parameters else "A language model"
    verb = "has read" if run.state == "under way" else "read"
    amount_read = f"{words.count(run.tokens)} tokens" if run.tokens else "its first tokens"
    named = words.listing(sources(run.record.data)) if run.record.data else ""
    text = f" of {named}" if named else ""
    time = f" in {words.duration(run.seconds)}" if run.seconds else ""
    device = f" on {run.device}" if run.device else ""
    ending = {"under way": " so far", "stopped": ", then stopped"}.get(run.state, "")
    return f"{model} {verb} {amount_read}{text}{time}{device}{ending}."


def _state(events: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    if not events:
        return "not begun", ""
    last = next((event for event in reversed(events) if event["event"] in ("start", "resume", "stop", "end")), {"event": "start"})
    reason = last.get("reason")
    if last["event"] == "stop":
        return "stopped", str(reason) if reason else ""
    return ("finished" if last["event"] == "end" else "under way"), ""


def _last(events: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return next((value for event in reversed(events) if (value := number(event.get(key))) is not None), None)


def _final(end: Mapping[str, Any], key: str, curve: Curve) -> float | None:
    return _first_known(number(end.get(key)), float(curve.values[-1]) if len(curve) else None)


def _first_known(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)

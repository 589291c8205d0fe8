"""How a run stands right now, and its story, as the page takes them: plain values of JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from daybreak.report import words
from daybreak.report.curves import number, spread, task_curve
from daybreak.report.drawable import Window, drawable, marks
from daybreak.report.record import sources
from daybreak.report.references import Reference, comparable, drawn, sentence
from daybreak.report.sections import MAX_SAMPLE_TEXT, MAX_SAMPLES, TOLD_ELSEWHERE, detail
from daybreak.watch.follow import Follower, silent_for
from daybreak.watch.history import History

RECENT = 50
"""Over how many steps loss and speed are averaged."""
_SILENCE = 90.0
"""Seconds without a line, and at least so many times a step's, after which a run that has not ended seems to be gone."""


def state(follower: Follower, references: Sequence[Reference] = ()) -> dict[str, Any]:
    """The figures of a run's row: how far, how good, how fast, how long still, and what is wrong."""
    with follower.lock:
        history, version = follower.known, follower.version
        begun, tokens, step = history.begun, history.tokens, history.step
        ends = [event for event in history.events if event["event"] in ("start", "resume", "stop", "end")]
        loss, evals = _mean(history.steps.values["loss"][-RECENT:]), history.evals.curves()
        val, bits = evals["val_loss"], evals["bits_per_byte"]
        speed = _median(history.steps.values["tokens_per_second"][-RECENT:])
        story, seconds = len(history.events), history.seconds
        troubles = _troubles(follower, history)
    last: Mapping[str, Any] = ends[-1] if ends else {}
    going = last.get("event") in ("start", "resume") or (not ends and tokens is not None)
    quiet = silent_for(follower)
    usual = number((number(begun.get("train_tokens")) or 0) / (number(begun.get("steps")) or 1)) or 0.0
    silent = bool(going and quiet is not None and quiet > max(_SILENCE, 20 * usual / speed if speed else 0.0))
    train_tokens = number(begun.get("train_tokens"))
    left = (train_tokens - tokens) / speed if going and not silent and train_tokens and tokens and speed else None
    kind = {"end": "finished", "stop": "stopped"}.get(str(last.get("event")), "under way" if going else "not begun")
    beside = _beside(follower, begun, references)
    data_text = follower.fact("data.json")
    return {
        "name": follower.name,
        "folder": str(follower.folder),
        "version": version,
        "story": story,
        "share": round(follower.share, 3),
        "state": "silent" if silent else kind,
        "reason": f"no line for {words.duration(quiet)}" if silent else str(last.get("reason") or ""),
        "step": step,
        "steps": number(begun.get("steps")),
        "tokens": tokens,
        "train_tokens": train_tokens,
        "loss": loss,
        "val_loss": _first(number(last.get("val_loss")), float(val.values[-1]) if len(val) else None),
        "bits_per_byte": _first(number(last.get("bits_per_byte")), float(bits.values[-1]) if len(bits) else None),
        "tokens_per_second": speed,
        "seconds": round(seconds, 1),
        "seconds_left": None if left is None else round(left, 1),
        "left": words.duration(left) if left is not None else "",
        "parameters": number(begun.get("parameters")),
        "device": str(begun.get("device") or ""),
        "text": words.listing(sources(data_text)) if isinstance(data_text, Mapping) else "",
        "standing": sentence(val, beside),
        "troubles": troubles,
    }


def curves(follower: Follower, references: Sequence[Reference], points: int, window: Window | None = None) -> dict[str, Any]:
    """The run as the charts' script takes it, thinned to a number of points."""
    with follower.lock:
        history, version = follower.known, follower.version
        found, events, begun = history.curves(), list(history.events), history.begun
    seconds = [event["seconds"] for event in events]
    found["hellaswag"] = task_curve(events, seconds, "hellaswag", "completion", "acc_norm")
    return {
        "name": follower.name,
        "version": version,
        "flops_per_token": number(begun.get("flops_per_token")),
        "curves": drawable(found, points, window),
        "marks": marks(events, seconds),
        "references": drawn(_beside(follower, begun, references)),
    }


def story(follower: Follower) -> dict[str, Any]:
    """What the run wrote, and what happened to it."""
    with follower.lock:
        events = list(follower.known.events)
    samples = spread([event for event in events if event["event"] == "sample"], MAX_SAMPLES)
    told = [event for event in events if event["event"] not in TOLD_ELSEWHERE]
    return {
        "samples": [
            {
                "step": event["step"],
                "tokens": words.count(number(event.get("tokens"))),
                "prompt": str(event.get("prompt") or "")[:MAX_SAMPLE_TEXT],
                "text": str(event.get("text") or "")[:MAX_SAMPLE_TEXT].removeprefix(str(event.get("prompt") or "")),
            }
            for event in samples
        ],
        "events": [
            {
                "event": event["event"],
                "step": event["step"],
                "tokens": words.count(number(event.get("tokens"))),
                "after": words.duration(event["seconds"]),
                "when": words.moment(number(event.get("time"))),
                "said": detail(event),
            }
            for event in spread(told, 300)
        ],
    }


def _troubles(follower: Follower, history: History) -> list[str]:
    """What a reader should know before trusting the curves."""
    told = []
    if history.strays:
        told.append(
            f"{history.strays:,} {'step' if history.strays == 1 else 'steps'} came after later ones though nothing was resumed: "
            "do two processes train in this folder? What came late is not drawn."
        )
    if history.broken:
        told.append(f"{history.broken:,} {'line was' if history.broken == 1 else 'lines were'} cut short or damaged and passed over.")
    if follower.cut_short and (silent_for(follower) or 0) > 5:
        told.append("The file ends within a line: its writer may have died while writing it.")
    if history.redone:
        told.append(f"{history.redone:,} steps were done again after a resume or a return; what they gave first is not drawn.")
    skips = sum(event["event"] == "skip" for event in history.events)
    if skips:
        told.append(f"{skips:,} {'step was' if skips == 1 else 'steps were'} left out by the guard.")
    return told


def _beside(follower: Follower, begun: Mapping[str, Any], references: Sequence[Reference]) -> list[Reference]:
    data = follower.fact("data.json")
    if not isinstance(data, Mapping):
        return []
    return comparable(references, data, sources(data), number(begun.get("parameters")))


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else None


def _median(values: Sequence[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return float(np.median(known)) if known else None


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)

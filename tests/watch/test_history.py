"""Lines taken as they come give what the report makes of the whole file; two writers, cut lines and rewinds are noticed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import BEGAN, made_events

from daybreak import metrics
from daybreak.report.curves import QUANTITIES, curves, elapsed, happened
from daybreak.watch.history import History


def lines(events: Sequence[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(metrics.plain(event), ensure_ascii=False).encode() for event in events]


def taken(events: Sequence[dict[str, Any]], batch: int = 1000) -> History:
    history, written = History(), lines(events)
    for begin in range(0, len(written), batch):
        history.take(written[begin : begin + batch])
    return history


def same_as_the_report(history: History, events: Sequence[dict[str, Any]]) -> None:
    counted = happened(events)
    plain, ours = curves(counted), history.curves()
    for name in QUANTITIES:
        for field in ("steps", "tokens", "seconds", "values"):
            np.testing.assert_allclose(getattr(ours[name], field), getattr(plain[name], field), rtol=1e-6, err_msg=f"{name}.{field}")
    rest = [(event["event"], event["step"]) for event in counted if event["event"] not in ("step", "eval")]
    assert [(event["event"], event["step"]) for event in history.events] == rest
    seconds = elapsed(counted)
    assert history.seconds == pytest.approx(float(seconds[-1]) if len(seconds) else 0.0, abs=1e-3)


@st.composite
def stories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A run that is stopped, resumed, thrown back and begun anew, as the trainer writes it."""
    told: list[dict[str, Any]] = []
    step, time = 0, BEGAN

    def tell(kind: str, at: int, **more: Any) -> None:
        told.append({"event": kind, "step": at, "tokens": at * 10, "time": round(time, 3), **more})

    tell("start", 0, steps=500)
    for _ in range(draw(st.integers(1, 6))):
        for _ in range(draw(st.integers(0, 12))):
            step, time = step + 1, time + draw(st.floats(0.01, 3))
            loss = draw(st.one_of(st.none(), st.floats(0.1, 9)))
            tell("step", step, loss=loss, grad_norm=1.5, learning_rate=1e-3, tokens_per_second=draw(st.floats(1, 1e6)))
            if draw(st.integers(0, 4)) == 0:
                time += 0.5
                tell("eval", step, val_loss=draw(st.floats(0.1, 9)), bits_per_byte=1.0)
                tell("sample", step, prompt="a", text="b")
        then = draw(st.sampled_from(["stop", "resume", "rollback", "start", "skip"]))
        time += draw(st.floats(0, 1000))
        if then in ("resume", "rollback"):
            step = draw(st.integers(0, step))
        if then == "start":
            step = 0
        tell(then, step, steps=500, reason="why")
    return told


@given(stories(), st.integers(1, 30))
@settings(max_examples=150, deadline=None)
def test_any_story_in_any_pieces_is_what_the_report_makes_of_it(events: list[dict[str, Any]], batch: int) -> None:
    same_as_the_report(taken(events, batch), events)


def test_a_made_run_is_what_the_report_makes_of_it() -> None:
    events = made_events(steps=300, every=20)
    for event in events:  # a skip stands in place of its step
        if event["event"] == "skip":
            events = [other for other in events if other["event"] != "step" or other["step"] != event["step"]]
    same_as_the_report(taken(events, 37), events)


def test_lines_that_a_crash_cut_are_passed_over_and_counted() -> None:
    written = lines(made_events(steps=40, every=10))
    whole, damaged = History(), History()
    whole.take(written[:10] + written[11:])
    damaged.take([*written[:10], written[10][:30], *written[11:20], b"", b"[1, 2]", b'{"event": 7}', b"\xff\xfe{", *written[20:]])
    assert damaged.broken == 2
    for name, curve in whole.curves().items():
        assert damaged.curves()[name].values.tolist() == curve.values.tolist()


def test_a_value_of_a_wrong_kind_spoils_only_itself() -> None:
    step = {"event": "step", "step": 2, "tokens": 20, "time": BEGAN, "loss": 1.0, "grad_norm": 1.0, "learning_rate": 1.0}
    first, last = {**step, "step": 1, "tokens": 10}, {**step, "step": 3, "tokens": 30}
    for wrong in ({"loss": "low"}, {"loss": [1]}, {"loss": None}, {"loss": 10**400}):
        history = taken([first, {**step, **wrong}, last])
        assert history.curves()["loss"].steps.tolist() == [1, 3]
        assert history.curves()["grad_norm"].steps.tolist() == [1, 2, 3]
    for odd in ({"time": None}, {"time": "noon"}, {"tokens": {}}):
        assert taken([first, {**step, **odd}, last]).curves()["loss"].steps.tolist() == [1, 2, 3]


def test_a_second_writer_is_noticed_and_its_steps_are_not_drawn() -> None:
    def steps(numbers: Sequence[int], loss: float) -> list[dict[str, Any]]:
        return [{"event": "step", "step": n, "tokens": n * 10, "time": BEGAN + n, "loss": loss} for n in numbers]

    ours, theirs = steps(range(1, 21), 1.0), steps(range(1, 21), 2.0)
    mixed = [event for pair in zip(ours[5:], theirs[:15], strict=True) for event in pair]
    history = taken([*ours[:5], *mixed])
    assert history.strays == 15
    assert history.curves()["loss"].values.tolist() == [1.0] * 20
    assert taken(ours).strays == 0


def test_what_was_done_again_is_counted() -> None:
    events = [{"event": "step", "step": n, "tokens": n, "time": BEGAN + n, "loss": 1.0} for n in range(1, 11)]
    history = taken([*events, {"event": "resume", "step": 6, "time": BEGAN + 50}])
    assert history.redone == 4
    assert history.begun["event"] == "resume"


def test_the_metrics_file_is_read_as_the_report_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = metrics.MetricsFile(path)
    for event in made_events(steps=30, every=10):
        file.write({**event, "odd": float("nan"), "text": "ü\u2028"})
    file.close()
    history = History()
    history.take(path.read_bytes().split(b"\n")[:-1])
    assert history.curves()["val_loss"].values.tolist() == pytest.approx(curves(happened(metrics.read(path)))["val_loss"].values.tolist())

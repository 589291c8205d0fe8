"""One JSON line per event: flushed at once, whole after a crash, strict JSON whatever the loss was."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from daybreak.metrics import MetricsFile, as_one_run, read


def event(kind: str, step: int, **values: Any) -> dict[str, Any]:
    return {"event": kind, "step": step, **values}


def test_events_are_readable_while_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    metrics = MetricsFile(path)
    for number in range(3):
        metrics.write(event("step", number, text="é\n"))
        assert [found["step"] for found in read(path)] == list(range(number + 1))
    metrics.close()
    metrics.close()
    assert path.read_text(encoding="utf-8").count("\n") == 3
    assert [found["text"] for found in read(path)] == ["é\n"] * 3


def test_a_second_run_of_the_program_appends(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for number in range(2):
        metrics = MetricsFile(path)
        metrics.write(event("step", number))
        metrics.close()
    assert [found["step"] for found in read(path)] == [0, 1]


@pytest.mark.parametrize("cut", ['{"event": "step", "st', '{"event": "step", "step": 1}', '{"event": "sample", "text": "\\u00'])
def test_a_line_that_a_crash_cut_does_not_spoil_the_next(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(event("step", 0)) + "\n" + cut)
    assert next(iter(read(path)))["step"] == 0
    metrics = MetricsFile(path)
    metrics.write(event("resume", 2))
    metrics.close()
    found = [row["step"] for row in read(path)]
    assert found == ([0, 1, 2] if cut.endswith("}") else [0, 2])


@pytest.mark.parametrize("line", [b"", b"[1]", b"3", b'"event"', b"null", b"{}", b'{"step": 1}', b"\xff\xfe", b"not json"])
def test_what_is_no_event_is_passed_over(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"event": "start", "step": 0}\n' + line + b'\n{"event": "end", "step": 9}\n')
    assert [found["event"] for found in read(path)] == ["start", "end"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_cannot_hold_become_null(tmp_path: Path, value: float) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.write(event("skip", 1, loss=value, grad_norm=1.5, tasks={"lambada": [value, 1.0]}))
    metrics.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found == event("skip", 1, loss=None, grad_norm=1.5, tasks={"lambada": [None, 1.0]})


def test_steps_that_were_done_again_count_once() -> None:
    first = [event("start", 0), *(event("step", number) for number in range(1, 6)), event("eval", 5)]
    second = [event("resume", 3), event("step", 4, again=1), event("step", 5, again=1), event("stop", 5)]
    third = [event("resume", 5), event("step", 6), event("end", 6)]
    kept = as_one_run(iter([*first, *second, *third]))
    assert [(row["event"], row["step"]) for row in kept] == [
        ("start", 0),
        ("step", 1),
        ("step", 2),
        ("step", 3),
        ("resume", 3),
        ("step", 4),
        ("step", 5),
        ("stop", 5),
        ("resume", 5),
        ("step", 6),
        ("end", 6),
    ]
    assert all("again" in row for row in kept if row["event"] == "step" and row["step"] in (4, 5))


def test_an_end_that_is_told_again_counts_once() -> None:
    """Killed between its last checkpoint and its end, a run has only the end left to tell; one that is to go further has more."""
    before = [event("start", 0, steps=2), event("eval", 1), event("sample", 1), event("step", 2), event("sample", 2), event("end", 2)]
    kept = as_one_run(iter([*before, event("resume", 2, steps=2), event("sample", 2), event("end", 2)]))
    assert kept == [*before[:4], event("resume", 2, steps=2), event("sample", 2), event("end", 2)]
    assert as_one_run(iter([*before, event("resume", 2, steps=3)]))[:-1] == before


def test_a_run_that_starts_anew_drops_what_was_before() -> None:
    """Killed before its first checkpoint, the same run begins at step 0 again."""
    kept = as_one_run(iter([event("start", 0), event("step", 1), event("step", 2), event("start", 0), event("step", 1, again=1)]))
    assert kept == [event("start", 0), event("step", 1, again=1)]


def test_no_events_are_no_run() -> None:
    assert as_one_run(iter([])) == []

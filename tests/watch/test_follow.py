"""A file that grows is read once: whole lines as they come, a first look at large ones, runs that appear."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import daybreak.watch.follow as follow
from daybreak.watch.follow import Follower, run_folders


def step(n: int) -> dict[str, Any]:
    return {"event": "step", "step": n, "tokens": n * 100, "time": 1e9 + n, "loss": 10 / n**0.5, "tokens_per_second": 100.0}


def line(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode() + b"\n"


def read_all(follower: Follower) -> None:
    while follower.read():
        pass


def test_what_is_appended_is_read_once_and_never_half(tmp_path: Path) -> None:
    path, follower = tmp_path / "metrics.jsonl", Follower(tmp_path)
    follower.look()
    assert len(follower.known.steps) == 0
    text = b"".join(line(step(n)) for n in range(1, 60))
    for begin in range(0, len(text), 97):  # a writer that is caught within lines
        with open(path, "ab") as file:
            file.write(text[begin : begin + 97])
        read_all(follower)
        assert len(follower.known.steps) == text[: begin + 97].count(b"\n")
    assert follower.history.broken == 0
    assert follower.known.curves()["loss"].steps.tolist() == list(range(1, 60))
    version = follower.version
    read_all(follower)
    assert follower.version == version


def test_a_line_without_its_end_is_told_of_and_its_rest_counts(tmp_path: Path) -> None:
    path, follower = tmp_path / "metrics.jsonl", Follower(tmp_path)
    path.write_bytes(line(step(1)) + line(step(2))[:20])
    read_all(follower)
    assert follower.cut_short
    with open(path, "ab") as file:
        file.write(line(step(2))[20:])
    read_all(follower)
    assert not follower.cut_short
    assert len(follower.known.steps) == 2


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_begun_anew_is_read_anew(tmp_path: Path, replaced: bool) -> None:
    path, follower = tmp_path / "metrics.jsonl", Follower(tmp_path)
    path.write_bytes(b"".join(line(step(n)) for n in range(1, 9)))
    read_all(follower)
    if replaced:
        (tmp_path / "other").write_bytes(b"".join(line(step(n)) for n in range(1, 30)))
        (tmp_path / "other").rename(path)
    else:
        path.write_bytes(line(step(1)))
    read_all(follower)
    assert len(follower.known.steps) == (29 if replaced else 1)


def test_a_large_file_is_looked_at_first_and_read_then(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(follow, "_WHOLE", 1 << 16)
    monkeypatch.setattr(follow, "_EDGE", 1 << 11)
    monkeypatch.setattr(follow, "PIECE", 1 << 17)
    events = [step(n) for n in range(1, 20_001)]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(map(line, events)))
    follower = Follower(tmp_path)
    follower.look()
    glance = follower.known.curves()["loss"]
    assert follower.share == 0
    assert 1000 < len(glance) < 5000
    assert (glance.steps[0], glance.steps[-1]) == (1, 20_000)
    np.testing.assert_allclose(glance.values, 10 / glance.steps**0.5, rtol=1e-6)
    assert np.diff(glance.steps).max() < 20_000 / 300
    shares = [follower.share]
    while follower.read():
        shares.append(follower.share)
        assert follower.known is follower.glance
    assert shares == sorted(shares)
    assert follower.known.curves()["loss"].steps.tolist() == list(range(1, 20_001))


def test_a_first_look_at_a_run_that_rewound_shows_the_later_attempt(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(follow, "_WHOLE", 1 << 16)
    monkeypatch.setattr(follow, "_EDGE", 1 << 11)
    again = [{**step(n), "loss": 99.0} for n in range(5001, 12_001)]
    events = [*map(step, range(1, 10_001)), {"event": "resume", "step": 5000, "time": 2e9}, *again]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(map(line, events)))
    follower = Follower(tmp_path)
    follower.look()
    glance = follower.known.curves()["loss"]
    assert (np.diff(glance.steps) > 0).all()
    assert set(glance.values[glance.steps > 5100]) == {99.0}
    assert follower.known.strays == 0


def test_facts_are_read_again_when_they_change(tmp_path: Path) -> None:
    import os

    follower, path = Follower(tmp_path), tmp_path / "settings.json"
    assert follower.fact("settings.json") is None
    path.write_text('{"a": 1}')
    os.utime(path, (1, 1))
    assert follower.fact("settings.json") == {"a": 1}
    path.write_text('{"a": 2}')
    assert follower.fact("settings.json") == {"a": 2}
    path.write_text("{")
    os.utime(path, (5, 5))
    assert follower.fact("settings.json") is None


def test_runs_are_found_in_folders_and_folders_of_folders(tmp_path: Path) -> None:
    for name in ("b", "a", "sweep/one", "sweep/two", "sweep/one/inner", ".hidden/x", "data"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("b", "a", "sweep/one", "sweep/two", "sweep/one/inner", ".hidden/x"):
        (tmp_path / name / "metrics.jsonl").write_text("")
    (tmp_path / "data" / "manifest.json").write_text("{}")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "settings.json").write_text("{}")
    names = [str(found.relative_to(tmp_path)) for found in run_folders([tmp_path, tmp_path / "b", tmp_path / "gone"])]
    assert names == ["a", "b", "begun", "sweep/one", "sweep/two"]
    assert run_folders([tmp_path], most=2) == [tmp_path / "a", tmp_path / "b"]

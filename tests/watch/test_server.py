"""What the page's server answers, to whom, and that it tells of every change."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_runs import LiveRun, serving

from daybreak.watch import state as states
from daybreak.watch.follow import Follower
from daybreak.watch.server import FILES, Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    LiveRun(tmp_path / "dawn", steps=300, every=20)
    LiveRun(tmp_path / "dusk", 0.5, steps=300, every=20, seed=1, final=3.5)
    with serving(tmp_path) as server:
        yield server


def get(server: Server, path: str, host: str | None = None) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def told(server: Server, path: str) -> Any:
    status, _, body = get(server, path)
    assert status == 200, body
    return json.loads(body)


def test_how_runs_stand(server: Server) -> None:
    done, going = told(server, "/runs")["runs"]
    assert (done["name"], done["state"], done["step"], done["seconds_left"], done["share"]) == ("dawn", "finished", 300, None, 1.0)
    assert (going["name"], going["state"], going["troubles"]) == ("dusk", "under way", ["1 step was left out by the guard."])
    assert going["tokens"] < going["train_tokens"] == 300 * 524_288
    assert going["seconds_left"] == pytest.approx((going["train_tokens"] - going["tokens"]) / going["tokens_per_second"], rel=0.01)
    assert done["val_loss"] == pytest.approx(3.3, abs=0.01)
    assert done["loss"] == pytest.approx(3.4, abs=0.1)
    assert "the reference at this token count (somebody on fineweb-edu" in going["standing"]
    assert going["text"] == "FineWeb-Edu 10B"


def test_curves_are_thinned_and_finer_where_one_looks_closely(server: Server) -> None:
    whole, few = told(server, "/curves?run=0"), told(server, "/curves?run=0&points=60")
    assert len(whole["curves"]["loss"]["values"]) == 299
    assert len(few["curves"]["loss"]["values"]) <= 60
    assert min(few["curves"]["loss"]["values"]) == min(whole["curves"]["loss"]["values"])
    part = told(server, "/curves?run=0&points=60&axis=steps&from=100&to=130")
    assert part["curves"]["loss"]["steps"] == list(range(99, 132)) or len(part["curves"]["loss"]["steps"]) == 32
    assert part["curves"]["loss"]["means"]["of"] == 299
    assert whole["references"][0]["name"] == "somebody"
    assert {mark["kind"] for mark in whole["marks"]} == {"checkpoint", "skip"}


def test_samples_and_events(server: Server) -> None:
    story = told(server, "/story?run=0")
    assert [(row["step"], row["prompt"]) for row in story["samples"]][-1] == (240, "Q: What is a gradient? A:")
    assert not story["samples"][0]["text"].startswith("The sun rose over")
    kinds = [row["event"] for row in story["events"]]
    assert (kinds[0], kinds[-1]) == ("start", "end")
    assert "sample" not in kinds
    assert any("12 deviations" in row["said"] for row in story["events"])


@pytest.mark.parametrize("path", ["/nothing", "/curves?run=7", "/curves?run=0&points=many", "/story", "/../pyproject.toml", "/static/"])
def test_what_is_not_there(server: Server, path: str) -> None:
    assert get(server, path)[0] == 404


def test_odd_windows_are_no_windows(server: Server) -> None:
    for odd in ("axis=loss&from=1&to=2", "axis=steps&from=x&to=2", "axis=steps&from=nan&to=inf", "from=1"):
        assert len(told(server, f"/curves?run=0&{odd}")["curves"]["loss"]["values"]) == 299
    assert told(server, "/curves?run=0&axis=steps&from=900&to=950")["curves"] == {}


def test_every_file_comes_with_a_policy_and_nobody_else_may_ask(server: Server) -> None:
    for path in FILES:
        status, headers, body = get(server, path)
        assert (status, len(body)) == (200, int(headers["Content-Length"]))
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
    for host in ("localhost:7007", "127.0.0.1", "[::1]:1"):
        assert get(server, "/", host)[0] == 200
    for host in ("evil.example", "evil.example:7007", "127.0.0.1.evil.example", ""):
        assert get(server, "/runs", host or "nobody")[0] == 403
    assert server.server_address[0] == "127.0.0.1"


def test_a_line_that_is_written_is_told_of(tmp_path: Path) -> None:
    run = LiveRun(tmp_path / "runs" / "dawn", 0.3, steps=200, every=20)
    with serving(tmp_path / "runs") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        connection.request("GET", "/live")
        answer = connection.getresponse()
        assert answer.getheader("Content-Type").startswith("text/event-stream")

        def next_states() -> list[dict[str, Any]]:
            line = answer.readline()
            assert answer.readline() == b"\n"
            assert line.startswith(b"data: ")
            return json.loads(line[6:])["runs"]

        before = next_states()[0]
        run.go_on(40)
        until = time.monotonic() + 20
        while (now := next_states())[0]["step"] <= before["step"] + 20:
            assert time.monotonic() < until
        assert now[0]["version"] > before["version"]
        LiveRun(tmp_path / "runs" / "late", 0.1, steps=200, every=20)
        while len(now := next_states()) < 2:
            assert time.monotonic() < until
        assert now[1]["name"] == "late"
        connection.close()


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for sweep in ("one", "two"):
        LiveRun(tmp_path / sweep / "run", steps=20, every=10)
    with serving(tmp_path / "one" / "run", tmp_path / "two") as server:
        assert [run["name"] for run in told(server, "/runs")["runs"]] == ["run", "two/run"]


def test_a_run_that_says_nothing_any_more_is_silent_not_under_way(tmp_path: Path) -> None:
    run = LiveRun(tmp_path / "dawn", 0.5, steps=100, every=10)
    follower = Follower(tmp_path / "dawn")
    follower.look()
    assert states.state(follower)["state"] == "under way"
    os.utime(run.path, (time.time() - 600,) * 2)
    follower.read()
    silent = states.state(follower)
    assert (silent["state"], silent["reason"], silent["seconds_left"]) == ("silent", "no line for 10 min", None)


def test_a_folder_without_lines_has_not_begun(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{}")
    follower = Follower(tmp_path)
    follower.look()
    fresh = states.state(follower)
    assert (fresh["state"], fresh["step"], fresh["loss"], fresh["troubles"]) == ("not begun", 0, None, [])
    assert states.curves(follower, [], 100)["curves"] == {}
    assert states.story(follower) == {"samples": [], "events": []}


def test_troubles_are_told_in_words(tmp_path: Path) -> None:
    run = LiveRun(tmp_path / "dawn", 0.5, steps=60, every=10)
    step = {"event": "step", "tokens": 1, "time": time.time(), "loss": 1.0}
    with open(run.path, "a") as file:
        file.write(
            '{"event": "st\n' + json.dumps({**step, "step": 2}) + "\n" + json.dumps({"event": "resume", "step": 20}) + "\n" + '{"half'
        )
    os.utime(run.path, (time.time() - 10,) * 2)
    follower = Follower(tmp_path / "dawn")
    follower.look()
    said = " ".join(states.state(follower)["troubles"])
    for words in ("1 step came after later ones", "1 line was cut short", "ends within a line", "steps were done again"):
        assert words in said

"""The page as a whole: well-formed, self-contained, safe, and there for every run, begun or not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_runs import PROMPT, made_events, made_run

import daybreak.report.page as page_module
from daybreak.report.page import RunRecord, page

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
VOID = {"meta", "link", "input", "br", "img", "hr", "circle", "line", "polyline"}


class Walk(HTMLParser):
    """Checks that tags are balanced and remembers what it met."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            self.blocks.append((self.open[-1], data))
        else:
            self.text.append(data)

    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def drawn_data(walk: Walk) -> Any:
    return json.loads(next(data for kind, data in walk.blocks if kind == "script" and data.startswith('{"runs"')))


EMPTY = RunRecord("fresh", {}, [], None, {})
PAGES = {
    "one": [made_run(steps=120, every=10)],
    "three": [made_run(steps=120, every=10), made_run("dusk", 3e-4, steps=80, every=10, end=False), EMPTY],
    "empty": [EMPTY],
    "single step": [RunRecord("single", {}, made_events(steps=1, every=5, end=False), {"tokens": None, "sources": None}, {"device": None})],
    "evil": [
        RunRecord(
            EVIL,
            {EVIL: EVIL, "nested": {EVIL: [EVIL]}},
            [
                {"event": "start", "step": 0, "tokens": 0, "time": 0},
                {"event": "step", "step": 1, "tokens": 5, "time": 1, "loss": 2.0},
                {"event": "sample", "step": 1, "tokens": 5, "time": 2, "prompt": EVIL, "text": EVIL + EVIL + "\x00\ud800"},
                {"event": "skip", "step": 1, "tokens": 5, "time": 2, "reason": EVIL},
                {"event": EVIL, "step": 1, "tokens": 5, "time": 2, EVIL: EVIL},
                {"event": "checkpoint", "step": 1, "tokens": 5, "time": 2, "path": EVIL},
                {"event": "end", "step": 1, "tokens": 5, "time": 3, "val_loss": 1.0, "bits_per_byte": 1.0, "compressors": {EVIL: 3.0}},
                {"event": "stop", "step": 1, "tokens": 5, "time": 3, "reason": EVIL},
            ],
            {"sources": [EVIL, {"name": EVIL}], "tokenizer": EVIL, EVIL: EVIL},
            {"device": EVIL, EVIL: {EVIL: EVIL}},
        )
    ],
    "nonsense": [
        RunRecord(
            "",
            {},
            [
                {"event": "end", "step": None, "tokens": None, "time": None, "val_loss": None, "compressors": None},
                {"event": "eval", "val_loss": 0, "bits_per_byte": 0, "step": 0, "tokens": 0, "time": 0},
                {"event": "step", "loss": -1e300, "step": 0, "tokens": 0, "time": 1e300},
                {"event": "step", "loss": 1e300, "step": 1, "tokens": 0, "time": 1e300},
                {"event": "sample", "step": 0, "text": None, "prompt": None},
            ],
            {"sources": 7, "tokens": "many", "tokenizer": None, "documents": {"train": None}},
            {"parameters": "many", "device": 7},
        )
    ],
    "nothing": [],
}


@pytest.mark.parametrize("which", PAGES)
def test_well_formed_and_self_contained(which: str) -> None:
    text = page(PAGES[which], title=EVIL if which == "evil" else "daybreak report")
    text.encode("utf-8")
    walk = Walk(text)
    for tag, attributes in walk.tags:
        assert tag not in ("img", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} has {name}"
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                assert value == "data:,"
    assert sum(tag == "script" for tag, _ in walk.tags) == 2
    for kind, block in walk.blocks:
        assert "@import" not in block
        if kind == "style":
            assert "url(" not in block
    outside = re.findall(r"https?://\S*", text)
    assert set(outside) <= {"https://github.com/leeoniya/uPlot"}
    identifiers = [attributes["id"] for _, attributes in walk.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert len(drawn_data(walk)["runs"]) == len(PAGES[which])


def test_the_policy_names_the_script() -> None:
    walk = Walk(page(PAGES["one"]))
    policy = next(a["content"] or "" for tag, a in walk.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "'unsafe-inline'; script-src 'sha256-" in policy
    assert "Permission is hereby granted" in next(data for kind, data in walk.blocks if kind == "script")


def test_the_headline_and_the_figures() -> None:
    run = PAGES["one"][0]
    words = Walk(page([run])).words()
    end = run.events[-1]
    assert "A language model with 124 million parameters read 62.9 million tokens of FineWeb-Edu 10B in" in words
    assert "on one NVIDIA H200." in words
    assert f"{end['val_loss']:.3f}" in words
    assert f"{end['bits_per_byte']:.3f}" in words
    assert "gzip -9 needs 2.91 and xz -9 needs 2.40" in words
    assert f"xz -9 needs {2.402 / end['bits_per_byte']:.1f} times as many" in words
    assert "finished" in words
    assert "train.learning_rate" in words
    assert "data.splits train, val" in words
    assert "tokenizer gpt2" in words
    assert "versions.torch 2.11.0" in words
    assert "gradient norm 9.4 is 12 deviations above its mean" in words
    assert "shards 99 entries" in words


def test_without_a_script_there_is_a_picture_and_every_sample() -> None:
    text = page(PAGES["one"])
    assert text.count("<polyline") == 2
    assert text.count("<circle") == 12
    assert text.count("<article") == 3
    assert text.count(f'<mark title="the prompt">{PROMPT}</mark>') == 3
    assert PROMPT + PROMPT not in text.replace("</mark>", "")


def test_several_runs_are_compared() -> None:
    walk = Walk(page(PAGES["three"]))
    assert "3 runs side by side" in walk.words()
    assert [run["name"] for run in drawn_data(walk)["runs"]] == ["dawn", "dusk", "fresh"]
    differing = [attributes for tag, attributes in walk.tags if tag == "span" and attributes.get("class") == "differs"]
    assert differing
    assert sum(attributes.get("class") == "best" for _, attributes in walk.tags) == 1


def test_compressors_of_different_texts_are_not_mixed() -> None:
    runs = [made_run(name, steps=20, every=10) for name in ("a", "b")]
    assert "gzip -9, text of" not in page(runs)
    other = [{**event, "compressors": {"gzip -9": 3.3}} if event["event"] == "end" else event for event in runs[1].events]
    assert page([runs[0], dataclasses.replace(runs[1], events=other)]).count("gzip -9, text of") == 2


def test_what_is_not_there_yet_is_said() -> None:
    fresh = Walk(page(PAGES["empty"])).words()
    for told in ("has not begun", "no evaluation yet", "bits per byte yet", "nothing to draw yet", "Nothing is recorded about the data"):
        assert told in fresh
    single = Walk(page(PAGES["single step"])).words()
    for told in ("under way", "no evaluation yet", "Not logged yet: bits per byte", "not been asked to write"):
        assert told in single


def test_rewound_steps_and_samples_are_not_on_the_page() -> None:
    events = made_events(steps=80, every=10, end=False)
    events.append({"event": "sample", "step": 80, "tokens": 1, "time": events[-1]["time"], "prompt": "", "text": "a void sample"})
    again = [*events, {"event": "resume", "step": 40, "tokens": 40 * 524_288, "time": events[-1]["time"] + 9000}]
    assert "a void sample" in page([dataclasses.replace(EMPTY, events=events)])
    text = page([dataclasses.replace(EMPTY, events=again)])
    assert "a void sample" not in text
    assert max(drawn_data(Walk(text))["runs"][0]["curves"]["loss"]["steps"]) == 40


def test_two_hundred_thousand_events_stay_small_and_quick() -> None:
    run = dataclasses.replace(EMPTY, events=made_events(steps=200_000, every=100))
    began = time.monotonic()
    text = page([run])
    assert time.monotonic() - began < 20
    assert len(text.encode("utf-8")) < 3_000_000
    curve = drawn_data(Walk(text))["runs"][0]["curves"]["loss"]
    losses = [event["loss"] for event in run.events if event["event"] == "step" and event["loss"] is not None]
    assert len(curve["values"]) == len(curve["steps"]) <= 2000
    assert sum(curve["means"]["counts"]) == curve["means"]["of"] == len(losses)
    assert min(curve["values"]) == pytest.approx(min(losses), rel=1e-5)
    assert max(curve["values"]) == pytest.approx(max(losses), rel=1e-5)
    assert "samples, evenly chosen" in text


def test_the_same_run_gives_the_same_page() -> None:
    assert page(PAGES["three"]) == page(PAGES["three"])


def test_static_files_are_what_their_note_says() -> None:
    folder = Path(page_module.__file__).parent / "static"
    rows = dict(re.findall(r"^\| `([^`]+)` .*`([0-9a-f]{64})` \|$", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(rows) == {"uPlot.iife.min.js", "uPlot.min.css", "uPlot-LICENSE.txt"}
    for name, digest in rows.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    for path in folder.glob("*.js"):
        assert "</script" not in path.read_text(encoding="utf-8").lower()


def test_tasks_are_told_with_their_errors_and_what_came_before() -> None:
    def told(value: float) -> dict[str, Any]:
        return {
            "hellaswag": {"metrics": {"acc_norm": {"value": value, "stderr": 0.0046, "n": 10042}}, "protocol": "completion", "n": 10042}
        }

    events = made_events()
    events += [{"event": "tasks", "step": 9, "tokens": 9000 * (i + 1), "time": 1e9 + i, "tasks": told(0.25 + i / 40)} for i in range(2)]
    events += [{"event": "tasks", "step": 9, "tokens": 1, "time": 2e9, "tasks": {EVIL: {"metrics": {EVIL: {"value": EVIL}}}}}]
    record = made_run()
    walk = Walk(page([dataclasses.replace(record, events=events[:-1])]))
    assert re.search(r"hellaswag completion acc_norm 0\.2750 0\.0046 10,042 18[^ ]* ?\S* 0\.2500", walk.words())
    assert "Tasks" not in Walk(page([record])).words()
    assert EVIL not in page([dataclasses.replace(record, events=events)])

"""Pictures of every view, for README and docs/reading-a-run.md: made runs, the real pages, a headless Chromium.

    make screenshots

Writes docs/images/*.png. The runs are told by tests/report/made_runs.py, not trained: the pictures show what the pages look like, not what
a recipe gives.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "report")]

from chromium import Browser, Page  # noqa: E402
from made_runs import made_run  # noqa: E402

from daybreak.cli.references import references  # noqa: E402
from daybreak.report.compared import as_section  # noqa: E402
from daybreak.report.comparison import compare  # noqa: E402
from daybreak.report.page import RunRecord, page  # noqa: E402
from daybreak.report.record import summary  # noqa: E402
from daybreak.watch.server import Server, Watch  # noqa: E402

IMAGES = ROOT / "docs" / "images"
STILL = "new Promise((done) => requestAnimationFrame(() => setTimeout(done, 400)))"


def told(name: str, **how: Any) -> RunRecord:
    """A made run of 2,000 steps that knows what others published."""
    seed = how.get("seed", 1)
    record = made_run(name, **{"steps": 2000, "every": 100, **how})
    settings = {**record.settings, "train": {**record.settings["train"], "seed": seed}}
    return dataclasses.replace(record, settings=settings, references=references())


def lucky(record: RunRecord, shift: float) -> RunRecord:
    """The same with all validation a little higher, as another seed may have it."""
    events = [{**event, "val_loss": event["val_loss"] + shift} if event.get("val_loss") else event for event in record.events]
    return dataclasses.replace(record, events=events)


def slower(record: RunRecord) -> RunRecord:
    """The same on a machine that pauses now and then."""
    events = []
    for event in record.events:
        if event["event"] == "step":
            pause = 0.35 if event["step"] % 400 > 330 else 0.8
            event = {**event, "tokens_per_second": event["tokens_per_second"] * pause}
        events.append(event)
    return dataclasses.replace(record, events=events)


def with_tasks(record: RunRecord, last: float) -> RunRecord:
    """The same with HellaSwag every 400 steps."""
    events = []
    for event in record.events:
        events.append(event)
        if event["event"] == "eval" and event["step"] % 400 == 0:
            value = round(last - 0.05 * math.exp(-event["step"] / 700), 4)
            figures = {"acc_norm": {"value": value, "stderr": 0.0045, "n": 10042}}
            events.append({**event, "event": "tasks", "tasks": {"hellaswag": {"protocol": "completion", "metrics": figures}}})
    return dataclasses.replace(record, events=events)


def unstable(record: RunRecord) -> RunRecord:
    """The same with spikes that grow, skipped steps and a rollback."""
    events: list[Any] = []
    for event in record.events:
        if event["event"] == "step" and event["step"] > 900:
            near = abs(math.sin(event["step"] / 37)) ** 40
            loss = None if event["loss"] is None else event["loss"] + 1.4 * near * event["step"] / 2000
            event = {**event, "loss": loss, "grad_norm": event["grad_norm"] + 6 * near}
        events.append(event)
        if event["event"] == "step" and event["step"] in (1105, 1221, 1569, 1686):
            events.append({**event, "event": "skip", "reason": "its gradient norm of 6.3 lies 21 deviations above the last 128"})
    return dataclasses.replace(record, events=events)


def overfit(record: RunRecord) -> RunRecord:
    """The same with a validation loss that turns."""
    events = []
    for event in record.events:
        if event["event"] == "eval":
            rise = 0.9 * max(0.0, event["step"] / 2000 - 0.4) ** 1.5
            val = event["val_loss"] + rise
            event = {**event, "val_loss": val, "bits_per_byte": val / math.log(2) / 4.46}
        if event["event"] == "step" and event["loss"] is not None:
            event = {**event, "loss": event["loss"] - 0.5 * max(0.0, event["step"] / 2000 - 0.3)}
        events.append(event)
    return dataclasses.replace(record, events=events)


def on_disk(record: RunRecord, folder: Path, share: float = 1.0) -> None:
    """The run as its trainer would have left it, or be leaving it now."""
    folder.mkdir(parents=True)
    events = [dict(event) for event in record.events]
    kept = max(1, int(len(events) * share))
    late = time.time() - events[kept - 1]["time"]
    events[0] |= {**record.facts, "steps": events[-1]["step"], "train_tokens": events[-1]["tokens"]}
    lines = [json.dumps({**event, "time": event["time"] + late}) for event in events[:kept]]
    (folder / "settings.json").write_text(json.dumps(record.settings))
    (folder / "data.json").write_text(json.dumps(record.data))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def view(page: Page, name: str, selector: str = "") -> None:
    """A picture of what is on the screen, from an element on."""
    if selector:
        page.value(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'start', behavior: 'instant'}})")
    page.value(STILL)
    assert page.complaints() == [], page.complaints()
    page.picture(IMAGES / f"{name}.png")


def live(
    browser: Browser, name: str, runs: Sequence[tuple[RunRecord, float]], size: tuple[int, int], selector: str = "", **how: Any
) -> None:
    """A picture of the live page over some runs, each written to a share."""
    with tempfile.TemporaryDirectory() as scratch:
        for record, share in runs:
            on_disk(record, Path(scratch) / record.name, share)
        with Watch([Path(scratch)], references()) as watch, Server(watch, 0) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            page = browser.open(server.address, *size, **how)
            page.until(f"+document.documentElement.dataset.known == {len(runs)}")
            page.until("document.querySelectorAll('#happened tr').length > 1")
            view(page, name, selector)
            server.shutdown()


def still(browser: Browser, name: str, text: str, size: tuple[int, int], selector: str = "", **how: Any) -> None:
    """A picture of a page from disk."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "page.html"
        path.write_text(text, encoding="utf-8")
        view(browser.open(path.as_uri(), *size, **how), name, selector)


def main() -> None:
    """All pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    one, going = with_tasks(told("gpt2.124m", seed=1), 0.30), told("modern.124m", seed=2, final=3.12)
    with Browser() as browser:
        live(browser, "watch", [(one, 1), (going, 0.62)], (1100, 1010))
        live(browser, "watch-dark", [(one, 1), (going, 0.62)], (1100, 1010), dark=True)
        live(browser, "watch-phone", [(going, 0.62)], (390, 760), phone=True)
        live(browser, "watch-samples", [(one, 1), (going, 0.62)], (1100, 620), "#samples")
        live(browser, "how-long", [(going, 0.62)], (1100, 300))
        live(browser, "unstable", [(unstable(one), 1)], (1100, 860), "#curves")
        live(browser, "overfit", [(overfit(one), 1)], (1100, 560), "#curves")
        live(browser, "fast", [(told("quick"), 0.7), (slower(told("slow-disk", seed=3)), 0.5)], (1100, 350), "[data-chart=grad_norm]")
        classic = told("gpt2.124m", batch_tokens=5_242_880, final=3.25)
        classic = dataclasses.replace(classic, data={**(classic.data or {}), "sources": [{"name": "FineWeb 10B"}]})
        still(browser, "reference", page([classic]), (1100, 650), "#curves")
        still(browser, "report", page([one]), (1100, 900))
        still(browser, "learning", page([one]), (1100, 620), "#curves")
        seeds = [
            told(f"{kind}-{seed}", seed=seed, final=final + seed / 300, learning_rate=rate)
            for kind, final, rate in (("gpt2", 3.28, 6e-4), ("modern", 3.12, 1.8e-3))
            for seed in (1, 2, 3)
        ]
        luck = (0.004, -0.009, 0.006, -0.003, -0.006, 0.011)
        seeds = [lucky(run, shift) for run, shift in zip(seeds, luck, strict=True)]
        judged = compare([summary(run) for run in seeds[3:]], [summary(run) for run in seeds[:3]])
        still(browser, "compare", page(seeds, "daybreak compare", as_section(judged)), (1100, 860), "#comparison")
    for path in sorted(IMAGES.glob("*.png")):
        print(f"{path.stat().st_size / 1000:6.0f} kB  {path}")


if __name__ == "__main__":
    main()

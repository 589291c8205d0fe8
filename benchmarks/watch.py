"""How fast the live page opens on long runs, and what following one costs.

    python benchmarks/watch.py [--runs 10] [--lines 1000000]

Writes runs of so many steps, opens the page on all of them in a headless Chromium, and measures from the start of the server to the curves
of all on the screen; then with all lines read how long a zoom and a step of the smoothing slider take, and how much processor time
following a run takes that writes ten lines a second. The files are in the system's cache, as they are while a run writes them.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from chromium import Browser  # noqa: E402

from benchmarks.record import bar, record  # noqa: E402
from daybreak.cli.references import references  # noqa: E402
from daybreak.watch.server import Server, Watch  # noqa: E402

DRAWN = "document.querySelectorAll('.plot canvas').length >= 4 && +document.documentElement.dataset.known == {runs}"
FRAME = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"


def long_run(folder: Path, lines: int, seed: int) -> None:
    """A run with a line for each step, an evaluation every ten thousandth and a sample with it."""
    chance, when = random.Random(seed), 1.7e9
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"train": {"seed": seed}}))
    noise = [chance.gauss(0, 1) for _ in range(9973)]
    with open(folder / "metrics.jsonl", "w", encoding="utf-8") as file:

        def tell(event: str, step: int, **more: Any) -> None:
            line = {"event": event, "step": step, "tokens": step * 524_288, "time": round(when, 3), **more}
            file.write(json.dumps(line) + "\n")

        tell("start", 0, steps=lines, train_tokens=lines * 524_288, parameters=124_439_808, flops_per_token=855_000_000)
        for step in range(1, lines + 1):
            when += 0.12
            wobble = noise[step * 7 % len(noise)]
            loss = 3 + seed / 50 + 7 * math.exp(-step / 3e4) + 0.05 * wobble
            norm, speed = abs(0.3 + 0.05 * wobble), 4.3e6 + 1e5 * wobble
            tell("step", step, loss=loss, grad_norm=norm, learning_rate=6e-4, tokens_per_second=round(speed, 1))
            if step % 10_000 == 0:
                tell("eval", step, val_loss=loss, bits_per_byte=loss / math.log(2) / 4.4)
                tell("sample", step, prompt="The sun", text=" rose over the hills.")


def opened(folder: Path, browser: Browser) -> dict[str, float]:
    """Seconds until the page shows curves, until every line has been read, and what the hands feel then."""
    began, spent = time.monotonic(), time.process_time()
    with Watch([folder], references()) as watch, Server(watch, 0) as server:
        looked = time.monotonic() - began
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        page = browser.open(server.address, 1200, 1000)
        page.until(DRAWN.format(runs=len(watch.followers)), 120)
        shown = time.monotonic() - began
        while any(follower.share < 1 or follower.glance for follower in watch.followers.values()):
            time.sleep(0.1)
        read, processor = time.monotonic() - began, time.process_time() - spent
        page.until("[...document.querySelectorAll('.card .way')].every((way) => !way.textContent.includes('reading'))", 60)
        time.sleep(2)  # the newest curves are fetched and drawn
        before = page.value("document.documentElement.dataset.drawn")
        began = time.monotonic()
        page.drag("[data-chart=loss] .u-over", 0.4, 0.42)
        page.until("daybreakCharts.view.window")
        zoomed = time.monotonic() - began
        page.until(f"document.documentElement.dataset.drawn != '{before}'", 30)
        finer = time.monotonic() - began
        page.value("document.getElementById('reset').click()")
        slide = (
            "(async () => { const s = document.getElementById('smoothing'), times = []; for (const v of [0, 2, 4, 6, 8, 3]) { "
            "const began = performance.now(); s.value = v; s.dispatchEvent(new Event('input')); "
            f"await {FRAME}; times.push(performance.now() - began); }} return times; }})()"
        )
        frames = sorted(page.value(slide))
        complaints = page.complaints()
        assert not complaints, complaints
        server.shutdown()
    return {
        "first look, s": looked,
        "open, s": shown,
        "all read, s": read,
        "processor time to read all, s": processor,
        "zoom, s": zoomed,
        "zoom with its own points, s": finer,
        "a step of the slider, ms": frames[len(frames) // 2],
    }


def following(folder: Path, seconds: float = 20.0) -> float:
    """The share of one processor that following a run takes while it writes ten lines a second and a page is open."""
    long_run(folder / "going", 20_000, 1)
    with Watch([folder], references()) as watch, Server(watch, 0) as server, Browser() as browser:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.5}, daemon=True).start()
        page = browser.open(server.address)
        page.until(DRAWN.format(runs=1), 60)
        began, spent, step = time.monotonic(), time.process_time(), 20_000
        with open(folder / "going" / "metrics.jsonl", "a", encoding="utf-8") as file:
            while time.monotonic() - began < seconds:
                step += 1
                file.write(json.dumps({"event": "step", "step": step, "tokens": step, "time": 1.8e9, "loss": 3.0}) + "\n")
                file.flush()
                time.sleep(0.1)
        used = (time.process_time() - spent) / (time.monotonic() - began)
        server.shutdown()
    return used


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--lines", type=int, default=1_000_000)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for i in range(wanted.runs):
            long_run(Path(scratch) / "runs" / f"run-{i}", wanted.lines, i)
        size = sum(path.stat().st_size for path in Path(scratch).rglob("metrics.jsonl"))
        with Browser() as browser:
            browser.open("about:blank")  # so that starting the browser itself is not measured
            found = opened(Path(scratch) / "runs", browser)
        found["following, share of a processor"] = following(Path(scratch) / "live")
    found["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row = {"runs": wanted.runs, "lines": wanted.lines, "MB": round(size / 1e6), **{name: round(value, 4) for name, value in found.items()}}
    for name, value in row.items():
        print(f"{name:34} {value:,}")
    bars = [
        bar("seconds from the start of the server to curves on the screen, 10 runs of 1M lines each", found["open, s"], "< 2"),
        bar("milliseconds from a step of the slider to the next frame, the same runs", found["a step of the slider, ms"], "< 100"),
        bar("share of one processor to follow a run of ten lines a second", found["following, share of a processor"], "< 0.05"),
    ]
    record("watch", bars, [row])


if __name__ == "__main__":
    main()

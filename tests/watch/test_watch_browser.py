"""The live page in a real browser: a run moves while one looks, zoom and overlay work, nothing complains, nothing leaves the machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import CHROMIUM, Browser, Page
from live_runs import LiveRun, serving

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the path")

DRAWN = "document.querySelectorAll('.plot canvas').length == 5"
STEPS = "+document.documentElement.dataset.steps"
WINDOW = "JSON.stringify(daybreakCharts.view.window)"
SLIDE = "(() => {{ const s = document.getElementById('{name}'); s.value = {value}; s.dispatchEvent(new Event('input')); }})()"
# Whether each text stands out from what is behind it, as WCAG 2 measures contrast (4.5 for small text).
CONTRAST = """(() => {
  const light = (c) => { const v = c / 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const parts = (text) => { const c = document.createElement('canvas').getContext('2d'); c.fillStyle = text; c.fillRect(0, 0, 1, 1);
    return [...c.getImageData(0, 0, 1, 1).data]; };
  const shine = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const behind = (e) => { const layers = [];
    for (let at = e; at; at = at.parentElement) {
      const c = parts(getComputedStyle(at).backgroundColor);
      layers.push(c);
      if (c[3] === 255) break;
    }
    const over = (under, c) => c.slice(0, 3).map((v, i) => v * c[3] / 255 + under[i] * (1 - c[3] / 255));
    return layers.reverse().reduce(over, [255, 255, 255]); };
  const poor = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest('.off') || getComputedStyle(e).clipPath !== 'none') continue;
    const a = shine(parts(getComputedStyle(e).color)), b = shine(behind(e)), ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${e.tagName}.${e.className} ${e.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return [...new Set(poor)];
})()"""
NAMELESS = """[...document.querySelectorAll('input, select, button, [tabindex], [role=img], [role=progressbar]')].filter((e) =>
  e.checkVisibility() && !(e.getAttribute('aria-label') || (e.labels && [...e.labels].some((l) => l.textContent.trim()))
  || e.textContent.trim())).map((e) => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


def clean(page: Page, address: str) -> None:
    assert page.complaints() == []
    assert [asked for asked in page.requests() if not asked.startswith((address, "data:"))] == []


def test_a_run_appears_and_moves_while_one_looks(browser: Browser, tmp_path: Path) -> None:
    run = LiveRun(tmp_path / "dawn", 0.3, steps=400, every=20)
    with serving(tmp_path) as server:
        page = browser.open(server.address)
        page.until(DRAWN)
        page.until(f"{STEPS} > 100")
        assert page.value("document.querySelector('.badge').textContent") == "under way"
        before = page.value("[+document.documentElement.dataset.drawn, document.querySelector('.card .way').textContent]")
        samples = page.value("+document.getElementById('leaf').max")
        run.go_on(260)
        page.until(f"+document.documentElement.dataset.drawn > {before[0] + 150}")
        assert page.value("document.querySelector('.card .way').textContent") != before[1]
        page.until(f"+document.getElementById('leaf').max > {samples}")
        assert page.value(DRAWN)
        assert "min" in page.value("document.querySelector('.card .way').textContent")  # how long still
        LiveRun(tmp_path / "dusk", 0.2, steps=400, every=20, seed=1)
        page.until("document.querySelectorAll('.card').length == 2")
        page.until("daybreakCharts && document.querySelectorAll('.plot')[0].textContent.includes('dusk')")
        run.go_on(10_000)
        page.until("document.querySelector('.badge').textContent == 'finished'")
        clean(page, server.address)


def test_zoom_overlay_axes_and_smoothing_work(browser: Browser, tmp_path: Path) -> None:
    for i, name in enumerate(("dawn", "dusk", "<img src=x onerror=alert(1)>")):
        LiveRun(tmp_path / f"run-{i}" / name.replace("/", "_"), steps=6000, every=200, seed=i, final=3.2 + i / 10)
    with serving(tmp_path) as server:
        page = browser.open(server.address)
        page.until(DRAWN)
        page.until("document.querySelectorAll('.card').length == 3")
        coarse = page.value("document.documentElement.dataset.drawn")
        assert page.value("document.querySelectorAll('img').length") == 0
        page.drag(".u-over", 0.5, 0.52)
        page.until(f"{WINDOW} != 'null'")
        low, high = page.value("daybreakCharts.view.window")
        assert 0.4 < low / (6000 * 524_288) < high / (6000 * 524_288) < 0.6
        page.until(f"document.documentElement.dataset.drawn != {coarse}")  # finer points came for the part
        page.value("document.querySelector('.plot').focus()")
        page.key("-")
        assert page.value("(([a, b]) => b - a)(daybreakCharts.view.window)") == pytest.approx(2 * (high - low))
        page.key("ArrowRight")
        page.key("+")
        page.key("0")
        assert page.value(WINDOW) == "null"
        for axis in ("steps", "seconds", "flops", "tokens"):
            page.value(f"document.querySelector('input[name=axis][value={axis}]').click()")
            assert page.value(DRAWN)
        for switch in ("#log-x", ".log-y", "#log-x", ".log-y", "#theme", "#theme"):
            page.value(f"document.querySelector('{switch}').click()")
            assert page.value(DRAWN)
        legend = "document.querySelectorAll('[data-chart=loss] .u-series').length"
        both = page.value(legend)
        page.value("document.querySelector('.card input').click()")
        assert page.value(legend) < both
        for value in (0, 9):
            page.value(
                f"(() => {{ const s = document.getElementById('smoothing'); s.value = {value}; s.dispatchEvent(new Event('input')); }})()"
            )
            assert page.value(DRAWN)
        page.value(SLIDE.format(name="leaf", value=0))
        page.until("document.getElementById('page').textContent.startsWith('step 800')")
        clean(page, server.address)


def test_a_server_that_ends_is_told_of(browser: Browser, tmp_path: Path) -> None:
    LiveRun(tmp_path / "dawn", 0.5, steps=60, every=10)
    with serving(tmp_path) as server:
        page = browser.open(server.address)
        page.until("document.getElementById('link').textContent == 'live'")
        server.watch.closed = True
    page.until("document.getElementById('link').textContent.startsWith('not reached')")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("phone", [False, True])
def test_labels_contrast_and_width(browser: Browser, tmp_path: Path, dark: bool, phone: bool) -> None:
    LiveRun(tmp_path / "dawn", steps=200, every=20)
    LiveRun(tmp_path / "a-run-with-a-rather-long-name.learning_rate=0.0018.seed=3", 0.5, steps=200, every=20, seed=1)
    with serving(tmp_path) as server:
        page = browser.open(server.address, *((390, 800) if phone else (1100, 900)), dark=dark, phone=phone)
        page.until(DRAWN)
        page.until("document.querySelectorAll('#happened tr').length > 3")
        assert page.value(NAMELESS) == []
        assert page.value(CONTRAST) == []
        assert page.value("document.documentElement.scrollWidth") <= (390 if phone else 1100)
        assert page.value("document.documentElement.lang") == "en"
        assert page.value("document.querySelectorAll('h1').length") == 1
        clean(page, server.address)


def test_an_empty_folder_waits(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        page = browser.open(server.address)
        page.until("document.getElementById('link').textContent == 'live'")
        page.until("document.getElementById('none').checkVisibility()")
        assert not page.value("document.getElementById('curves').checkVisibility()")
        LiveRun(tmp_path / "dawn", steps=60, every=10)
        page.until(DRAWN)
        clean(page, server.address)

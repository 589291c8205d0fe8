"""The page in a real browser: the curves are drawn, every switch works, and nothing complains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import CHROMIUM, Browser, Page
from made_runs import made_run

from daybreak.report.page import RunRecord, page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the path")

EVIL = "<img src=x onerror=\"document.documentElement.dataset.owned='yes'\">"
CANVASES = "document.querySelectorAll('canvas').length"

USE_EVERYTHING = """(() => {
  const pick = (selector) => [...document.querySelectorAll(selector)];
  let least = 99;
  for (const one of pick("input[type=radio], input[type=checkbox]:not(.toggle-run), button")) {
    one.click();
    least = Math.min(least, pick("canvas").length);
  }
  for (const one of pick("input[type=range]")) { one.value = 0; one.dispatchEvent(new Event("input")); }
  for (const one of pick(".filter")) { one.value = "learning"; one.dispatchEvent(new Event("input")); }
  for (const one of pick(".only-differing")) one.click();
  return least;
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


def opened(browser: Browser, text: str, folder: Path) -> Page:
    (folder / "page.html").write_text(text, encoding="utf-8")
    return browser.open((folder / "page.html").as_uri())


def test_the_curves_are_drawn_and_no_name_can_act(browser: Browser, tmp_path: Path) -> None:
    view = opened(browser, page([made_run(steps=60, every=10), made_run(EVIL, 3e-4, steps=40, every=10)]), tmp_path)
    assert view.value(CANVASES) == 5
    assert view.value("document.documentElement.dataset.owned") is None
    assert view.value("document.querySelector('[data-chart=loss] .u-legend').textContent").count("<img src=x") == 2
    assert view.complaints() == []
    assert view.requests() == [(tmp_path / "page.html").as_uri()]


def test_every_switch_works(browser: Browser, tmp_path: Path) -> None:
    runs = [made_run(steps=60, every=10), made_run("dusk", 3e-4, steps=40, every=10), RunRecord("fresh", {}, [], None, {})]
    view = opened(browser, page(runs), tmp_path)
    assert view.value(USE_EVERYTHING) == 5
    assert view.value("document.querySelectorAll('tr[hidden]').length") > 5
    series = "document.querySelectorAll('[data-chart=loss] .u-series').length"
    view.value("document.getElementById('smoothing').value = 3; document.getElementById('smoothing').dispatchEvent(new Event('input'))")
    assert view.value(series) == 5
    view.value("document.querySelector('.toggle-run').click()")
    assert view.value(series) == 3
    for box in (1, 2):
        view.value(f"document.querySelectorAll('.toggle-run')[{box}].click()")
    assert view.value("document.querySelector('[data-chart=loss] .plot').textContent") == "no run is chosen"
    assert view.complaints() == []


def test_a_part_is_zoomed_in_all_charts_and_let_go(browser: Browser, tmp_path: Path) -> None:
    view = opened(browser, page([made_run(steps=400, every=20)]), tmp_path)
    all_of_it = 400 * 524_288
    view.drag("[data-chart=grad_norm] .u-over", 0.25, 0.75)
    view.until("daybreakCharts.view.window")
    low, high = view.value("daybreakCharts.view.window")
    assert (low / all_of_it, high / all_of_it) == pytest.approx((0.25, 0.75), abs=0.02)
    label = "document.querySelector('[data-chart=loss] .plot').getAttribute('aria-label')"
    assert view.value(label).startswith("loss against tokens. At the end: training, smoothed 3.")
    view.value("document.getElementById('reset').click()")
    assert view.value("daybreakCharts.view.window") is None
    assert view.complaints() == []


def test_a_young_run_beside_an_old_one_is_in_the_frame(browser: Browser, tmp_path: Path) -> None:
    view = opened(browser, page([made_run(steps=2000, every=100), made_run("young", steps=60, every=10)]), tmp_path)
    top = view.value("+[...document.querySelectorAll('[data-chart=loss] .plot')].map((p) => daybreakCharts.frame(p)[1])[0]")
    young = [event["loss"] for event in made_run(steps=60).events if event.get("loss")]
    assert min(young[4:]) < max(young[10:]) < top < young[0]


def test_a_mark_is_explained_where_the_cursor_is(browser: Browser, tmp_path: Path) -> None:
    view = opened(browser, page([made_run(steps=400, every=20)]), tmp_path)
    view.value("document.querySelector('input[value=steps]').click()")
    share = (172 - 1) / 399  # the step that was skipped
    view.drag("[data-chart=loss] .u-over", share, share)
    assert view.value("document.querySelector('.moment').textContent") == (
        "left out a step at step 172: gradient norm 9.4 is 12 deviations above its mean"
    )

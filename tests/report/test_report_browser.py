"""The page in a real browser: the curves are drawn, every switch works, and nothing complains."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from made_runs import made_run

from daybreak.report.page import RunRecord, page

CHROMIUM = shutil.which("chromium")
SILENT = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", *SILENT, "--window-size=1000,800", "--virtual-time-budget=4000", "--dump-dom"]
EVIL = "<img src=x onerror=\"document.documentElement.dataset.owned='yes'\">"

USE_EVERYTHING = """<script>addEventListener("load", () => {
  const pick = (selector) => [...document.querySelectorAll(selector)];
  for (const one of pick("input[type=radio], input[type=checkbox], button")) {
    one.click();
    document.documentElement.dataset.least = Math.min(document.documentElement.dataset.least || 99, pick("canvas").length);
  }
  for (const one of pick("input[type=range]")) { one.value = 0; one.dispatchEvent(new Event("input")); }
  for (const one of pick(".filter")) { one.value = "learning"; one.dispatchEvent(new Event("input")); }
  for (const one of pick(".only-differing")) one.click();
  for (const one of pick(".u-over")) {
    const left = one.getBoundingClientRect().left;
    const at = (kind, x) => one.dispatchEvent(new MouseEvent(kind, { bubbles: true, clientX: left + x, clientY: 5 }));
    at("mouseenter", 40); at("mousemove", 40); at("mousedown", 40); at("mousemove", 90); at("mouseup", 90); at("dblclick", 90);
  }
  document.documentElement.dataset.used = "all";
});</script></head>"""


def dom(text: str, folder: Path) -> str:
    """What the document has become after its scripts ran."""
    assert CHROMIUM is not None
    (folder / "page.html").write_text(text, encoding="utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", (folder / "page.html").as_uri()]
    return subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode("utf-8")


def root(document: str) -> str:
    found = re.search(r"<html[^>]*>", document)
    assert found is not None
    return found[0]


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the path")


@needs_chromium
def test_the_curves_are_drawn_and_no_name_can_act(tmp_path: Path) -> None:
    document = dom(page([made_run(steps=60, every=10), made_run(EVIL, 3e-4, steps=40, every=10)]), tmp_path)
    assert document.count("<canvas") == 5
    assert 'class="js"' in root(document)
    assert "data-errors" not in root(document)
    assert "data-owned" not in root(document)
    assert "&lt;img src=x" in document


@needs_chromium
def test_every_switch_works(tmp_path: Path) -> None:
    runs = [made_run(steps=60, every=10), made_run("dusk", 3e-4, steps=40, every=10), RunRecord("fresh", {}, [], None, {})]
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page(runs))  # so that this test may bring a script
    document = dom(text.replace("</head>", USE_EVERYTHING, 1), tmp_path)
    assert 'data-used="all"' in root(document)
    assert 'data-least="5"' in root(document)
    assert "data-errors" not in root(document)
    assert document.count('<tr hidden=""') > 5

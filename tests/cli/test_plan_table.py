"""The planner's table: every way to place a run, what fits marked, as text, JSON and a page that opens from disk."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybreak import config, devices, planning
from daybreak.cli import main
from daybreak.planning import Fleet, choices
from daybreak.recipes import recipe_settings
from daybreak.settings import Settings

Captured = pytest.CaptureFixture[str]


def told(capsys: Captured, *words: str, status: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main(["plan", *words]) == status
    out, err = capsys.readouterr()
    return out, err


def of(recipe: str, *edits: str) -> Settings:
    return config.edit(recipe_settings(recipe), edits)


def test_every_way_is_as_the_planner_places_it() -> None:
    settings, fleet = of("gpt2.1558m"), Fleet(*devices.parse("8xrtx4090"))
    found = choices(settings, [fleet])
    assert [(row.layout, row.recompute) for row in found] == [("ddp", False), ("ddp", True), ("fsdp", False), ("fsdp", True)]
    for row in found:
        for cell in row.cells:
            edits = [
                f"train.micro_batch={cell.micro_batch}",
                f"machine.parallel={row.layout}",
                f"machine.recompute={row.recompute}".lower(),
            ]
            placed = planning.plan(config.edit(settings, edits), fleet)
            assert cell.fits == placed.fits or not row.recompute  # without recompute the plan goes on to try with it
            if placed.placement.recompute == row.recompute:
                assert cell.memory_bytes == placed.placement.memory.total


@given(
    recipe=st.sampled_from(["gpt2.124m", "gpt2.1558m", "gpt3.6.7b", "gpt3.175b"]),
    written=st.sampled_from(["t4", "rtx4090", "a100", "8xa100", "7xh100", "64xh100", "1024xa100"]),
)
def test_the_marks_keep_their_word(recipe: str, written: str) -> None:
    fleet = Fleet(*devices.parse(written))
    found = choices(of(recipe), [fleet])
    made = planning.plan(of(recipe), fleet)
    for row in found:
        assert [cell.micro_batch for cell in row.cells] == sorted({cell.micro_batch for cell in row.cells})
        assert [cell.memory_bytes for cell in row.cells] == sorted(cell.memory_bytes for cell in row.cells)
        assert row.largest == max((cell.micro_batch for cell in row.cells if cell.fits), default=None)
    taken = [row for row in found if row.taken]
    assert len(taken) == int(bool(made.fits))
    if taken:  # of its way the plan takes the largest power of two there is, or more
        assert taken[0].largest is not None
        assert taken[0].largest <= made.placement.micro_batch


def test_what_the_settings_fix_stays_fixed() -> None:
    found = choices(
        of("gpt2.124m", "train.micro_batch=32", "machine.parallel=fsdp", "machine.recompute=true"), [Fleet(*devices.parse("8xl4"))]
    )
    assert [(row.layout, row.recompute, [cell.micro_batch for cell in row.cells]) for row in found] == [("fsdp", True, [32])]
    assert {row.layout for row in choices(of("gpt2.124m"), [Fleet(*devices.parse("16xa100"))])} == {"ddp", "fsdp", "hsdp"}


def test_the_table_as_text(capsys: Captured) -> None:
    out, _ = told(capsys, "gpt2.1558m", "--gpus", "a100,8xrtx4090", "--table")
    lines = out.splitlines()
    assert lines[0].startswith("gpt2.1558m: 1,557,611,200 parameters")
    rows = [line for line in lines if re.match(r"(a100|8xrtx4090| {12})( |$)*(single|ddp|fsdp)", line)]
    assert len(rows) == 6
    assert sum(">" in row for row in rows) == 2
    assert any("(" in row for row in rows)
    assert "$" in rows[0]
    assert "recompute keeps only each block's input" in out
    assert max(map(len, lines)) <= 140
    assert "8xb200" in told(capsys, "gpt2.124m", "--table")[0]
    assert "1024xh100" in told(capsys, "gpt3.175b", "--table")[0]


def test_the_table_as_json_and_page(capsys: Captured, tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    out, err = told(capsys, "gpt3.6.7b", "--gpus", "8xa100", "--price", "2", "--out", str(page), "--json")
    assert err == ""
    made = json.loads(out)
    assert made["page"] == str(page)
    assert made["parameters"] == 6_658_404_352
    (taken,) = [row for row in made["choices"] if row["taken"]]
    assert (taken["layout"], taken["recompute"], taken["largest_micro_batch"]) == ("fsdp", False, 2)
    assert taken["memory_bytes"]["2"] <= taken["usable_bytes"] == 72_000_000_000
    assert taken["cost"] == pytest.approx(taken["seconds"] / 3600 * 8 * 2)

    tags: list[tuple[str, dict[str, Any]]] = []

    class Seen(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attrs)))

    text = page.read_text(encoding="utf-8")
    Seen().feed(text)
    assert not [tag for tag, _ in tags if tag == "script"]
    assert not [attrs for _, attrs in tags if str(attrs.get("src", attrs.get("href", "data:"))).startswith(("http", "//"))]
    assert sum("room taken" in str(attrs.get("class")) for _, attrs in tags) == 2  # in the table, and in its legend
    assert "machine.recompute" in text


def test_a_page_that_cannot_be_written(capsys: Captured, tmp_path: Path) -> None:
    _, err = told(capsys, "gpt2.124m", "--out", str(tmp_path), status=2)
    assert err.startswith(f"error: {tmp_path}: cannot be written")
    assert err.count("\n") == 1


def test_a_table_needs_neither_torch_nor_numpy() -> None:
    line = (
        "import sys; from daybreak.cli import main; status = main(['plan', 'gpt3.175b', '--table']); "
        "print('END', status, sorted({'torch', 'numpy', 'tiktoken', 'rich', 'ssl'} & set(sys.modules)))"
    )
    came = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120)
    assert came.stdout.splitlines()[-1] == "END 0 []", came.stderr

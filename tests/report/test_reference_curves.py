"""A finished run of ours becomes a reference for those like it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_runs import made_run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "end", "wanted"), [("fineweb-edu", True, ""), ("a diary", True, "known by name"), ("fineweb", False, "under way")]
)
def test_a_run_becomes_a_reference(tmp_path: Path, text: str, end: bool, wanted: str) -> None:
    record = made_run(steps=2000, every=20, end=end)
    first, *rest = record.events
    (tmp_path / "settings.json").write_text(json.dumps(record.settings))
    (tmp_path / "data.json").write_text(json.dumps({**(record.data or {}), "sources": [{"source": text}]}))
    lines = [{**first, **record.facts}, *rest]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code = (
        "import sys, json, dataclasses; from pathlib import Path; from benchmarks.reference_curves import reference; "
        "print(json.dumps(dataclasses.asdict(reference(Path(sys.argv[1]), 'dawn'))))"
    )
    told = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    if wanted:
        assert wanted in told.stderr
        return
    row = json.loads(told.stdout)
    assert (row["name"], row["text"], row["tokenizer"], row["parameters"]) == ("dawn", "fineweb-edu", "gpt2", 124_439_808)
    assert len(row["tokens"]) == len(row["values"]) <= 41
    assert row["tokens"][-1] == 2000 * 524_288
    assert row["values"] == sorted(row["values"], reverse=True)

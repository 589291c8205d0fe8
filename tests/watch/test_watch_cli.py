"""The two verbs as a person types them: a page that can be opened, a comparison that can be read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from live_runs import LiveRun

from daybreak.cli import main


def test_watch_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    LiveRun(tmp_path / "dawn", steps=40, every=10)
    command = [sys.executable, "-m", "daybreak", "watch", str(tmp_path), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["runs"] == ["dawn"]
        with urllib.request.urlopen(told["url"], timeout=20) as answer:
            assert b"daybreak watch" in answer.read()
        port = told["url"].rstrip("/").rpartition(":")[2]
        taken = subprocess.run([*command[:-2], port], capture_output=True, text=True, timeout=60)
        assert taken.returncode == 2
        assert f"--port {port}: cannot be listened on" in taken.stderr
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, said) == (0, "")


@pytest.fixture
def six(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, final, rate in (("gpt2", 3.3, 6e-4), ("modern", 3.1, 1.8e-3)):
        for seed in (1, 2, 3):
            LiveRun(tmp_path / f"{name}-{seed}", steps=60, every=5, seed=seed, final=final, learning_rate=rate)
            settings = json.loads((tmp_path / f"{name}-{seed}" / "settings.json").read_text())
            settings["train"]["seed"] = seed
            (tmp_path / f"{name}-{seed}" / "settings.json").write_text(json.dumps(settings))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_compare_takes_what_a_shell_makes_of_a_star(six: Path, capsys: pytest.CaptureFixture[str]) -> None:
    modern, gpt2 = ([f"{name}-{seed}" for seed in (1, 2, 3)] for name in ("modern", "gpt2"))
    for words in (
        ["compare", *modern, "--baseline", *gpt2, "--by", "time", "--json"],
        ["compare", "--by", "time", "--json", *modern, "--baseline", *gpt2],
        ["compare", "--baseline", *gpt2, "--by=time", *modern, "--json"],
    ):
        assert main(words) == 0
        told = json.loads(capsys.readouterr().out)
        assert [group["name"] for group in told["groups"]] == ["gpt2", "modern"]
        assert told["groups"][1]["difference"]["how"] == "paired"
        assert told["verdict"].startswith("modern is better than gpt2 by 0.")
    assert main(["compare", *gpt2, *modern, "--to-loss", "4", "--out", "page.html"]) == 0
    text = capsys.readouterr().out
    assert "gpt2 (baseline)" in text
    assert "time to 4" in text
    assert "train.learning_rate  0.0006  0.0018" in text
    assert "Which is better" in (six / "page.html").read_text()


def test_a_report_says_where_settings_differ_from_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from daybreak import config
    from daybreak.recipes import demo

    LiveRun(tmp_path / "run", steps=40, every=10)
    settings = config.to_dict(config.edit(demo.demo(), ["train.learning_rate=0.5"]))
    (tmp_path / "run" / "settings.json").write_text(json.dumps(settings))
    assert main(["report", str(tmp_path / "run")]) == 0
    text = (tmp_path / "run" / "report.html").read_text()
    assert "Differs from its recipe in train.learning_rate = 0.5." in text
    assert "the recipe" in text
    assert "the reference (OpenAI&#x27;s gpt2.124m on fineweb-edu: 3.292)" in text

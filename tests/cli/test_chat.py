"""`daybreak chat`: line by line through a pipe, and as a person types."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from daybreak import loading
from daybreak.cli import chat, main
from daybreak.serve.chatting import as_text

GREEDY = ["--temperature", "0", "--max-tokens", "6", "--device", "cpu", "--dtype", "fp32"]


def told(run_dir: Path, typed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[str, str]:
    """Standard output and error of a chat through a pipe."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert main(["chat", str(run_dir), *GREEDY, *words]) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_a_turn_is_the_models_continuation(run_dir: Path, capsys: Any, monkeypatch: Any) -> None:
    out, err = told(run_dir, "Hi\n", capsys, monkeypatch)
    model = loading.load(run_dir, device="cpu")
    ids = model.tokenizer.encode("User: Hi\nAssistant:").tolist()[-15:]  # of the context of 16, one is for what is written
    wanted = int(model(torch.tensor([ids]))[0, -1].argmax())
    assert out.startswith(model.tokenizer.decode([wanted]).lstrip())
    assert out.endswith("\n")
    assert err == ""


def test_commands(run_dir: Path, capsys: Any, monkeypatch: Any, tmp_path: Path) -> None:
    file = tmp_path / "talk.txt"
    lines = [
        "Hi",
        f"/save {file}",
        "/temprature 3",
        "/temperature -1",
        "/temperature 0.5",
        "/top_k x",
        "/seed 4",
        "/seed",
        "/undo",
        "/save",
    ]
    out, err = told(run_dir, "\n".join([*lines, f"/save {tmp_path}", "/quit", "never"]), capsys, monkeypatch)
    assert err.splitlines() == [
        f"{file}: 2 turns",
        "/temprature: no such command; did you mean temperature?; /help lists them",
        "/temperature: wanted 0 or more, came -1.0",
        "temperature 0.5",
        "/top_k: wanted a number, came 'x'",
        "seed 4",
        "seed 4",
        "0 turns are left",
        "/save: wanted a file's name behind it",
        f"{tmp_path}: cannot be written (Is a directory)",
    ]
    assert file.read_text() == as_text([("user", "Hi"), ("assistant", out.strip())]).removesuffix("Assistant:")


def test_a_seed_gives_the_same_dialogue(run_dir: Path, capsys: Any, monkeypatch: Any) -> None:
    words = ("--temperature", "1", "--seed", "5")
    first = told(run_dir, "Hi\nHo\n", capsys, monkeypatch, *words)
    assert told(run_dir, "Hi\nHo\n", capsys, monkeypatch, *words) == first


def test_the_oldest_turns_are_forgotten(run_dir: Path) -> None:
    talk = chat.Dialogue(
        loading.load(run_dir, device="cpu"), {"temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0, "max_tokens": 3, "seed": 1}
    )
    for _ in range(6):
        talk.answer("the sun rises")
    assert len(talk.turns) == 2
    assert talk.turns[0] == ("user", "the sun rises")


def test_what_cannot_be_is_refused(run_dir: Path, capsys: Any) -> None:
    assert main(["chat", str(run_dir), "--temperature", "-1", "--top-k", "-2", "--max-tokens", "0"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --temperature: wanted 0 or more, came -1.0",
        "error: --top-k: wanted at least 0, came -2",
        "error: --max-tokens: wanted at least 1, came 0",
    ]
    assert main(["chat", "nowhere"]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err

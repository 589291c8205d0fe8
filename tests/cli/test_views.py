"""`daybreak data show` and `daybreak tokenizer show`: text for a person, one JSON object for a program, a page, one line for an error."""

from __future__ import annotations

import io
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_documents

from daybreak.cli import main
from daybreak.data.ranks import END_OF_TEXT
from daybreak.data.tokenizer import load_tokenizer, train_bpe

Captured = pytest.CaptureFixture[str]


def told(capsys: Captured, *words: str, status: int = 0) -> str:
    capsys.readouterr()
    assert main(words) == status
    out, err = capsys.readouterr()
    if status:
        assert out == ""
        assert err.count("\n") == 1
        return err
    assert "error" not in err
    return out


def test_data_show_as_text(data_dir: Path, capsys: Captured) -> None:
    out = told(capsys, "data", "show", str(data_dir), "--documents", "1", "--characters", "50", "--window-tokens", "300")
    for part in (
        "near_duplicates   not computed",
        "tokens_per_byte   1.0",
        "sources           ",
        "lengths of ",
        " documents in tokens: shortest",
    ):
        assert part in out, part
    assert "█" in out
    assert "most frequent of " in out
    assert "' '" in out
    assert f"\n⟨{END_OF_TEXT}⟩\n" in out
    assert "--- window of train: tokens " in out


def test_data_show_as_json(data_dir: Path, capsys: Captured) -> None:
    found = json.loads(told(capsys, "data", "show", str(data_dir), "--windows", "2", "--json"))
    assert {
        "sources",
        "near_duplicates",
        "tokens_per_byte",
        "looked_at",
        "distinct_tokens",
        "lengths",
        "frequent",
        "windows",
    } <= found.keys()
    assert found["near_duplicates"] is None
    assert found["looked_at"] == {"split": "train", "tokens": found["train_tokens"], "of": found["train_tokens"]}
    assert [window["split"] for window in found["windows"]] == ["train", "train"]
    assert found["lengths"]["documents"] + found["samples"]["val"].__len__() <= found["documents"] + 2
    assert found["frequent"][0]["text"] == " "


def test_near_duplicates_are_told_where_they_were_computed(data_dir: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from daybreak.data import foreign

    manifest = foreign.open_manifest(data_dir)
    monkeypatch.setattr(foreign, "open_manifest", lambda _: dataclasses.replace(manifest, skipped={"near-duplicates": 10}))
    assert "near_duplicates   10 left out, 20.0% of all documents" in told(capsys, "data", "show", str(data_dir))
    assert json.loads(told(capsys, "data", "show", str(data_dir), "--json"))["near_duplicates"] == 10


@pytest.mark.parametrize("option", ["--documents", "--windows", "--window-tokens", "--characters"])
def test_data_show_refuses_less_than_nothing(option: str, data_dir: Path, capsys: Captured) -> None:
    assert f"error: {option}: wanted at least" in told(capsys, "data", "show", str(data_dir), option, "-1", status=2)


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    train_bpe(tiny_documents(), 300).save(tmp_path / "tok")
    return str(tmp_path / "tok")


def test_tokenizer_show_marks_tokens(tokenizer: str, capsys: Captured) -> None:
    found = load_tokenizer(tokenizer)
    ids = found.encode("the sun rises")
    out = told(capsys, "tokenizer", "show", tokenizer, "the sun rises")
    assert out.splitlines()[0].replace("│", "") == "the sun rises"
    assert out.splitlines()[0].count("│") == len(ids) - 1
    assert (
        f"{len(ids)} tokens, {len(set(ids.tolist()))} different ones, 13 bytes, {13 / len(ids):.2f} bytes per token (bpe, 300 ids)" in out
    )


def test_tokenizer_show_as_json(tokenizer: str, capsys: Captured) -> None:
    found = json.loads(told(capsys, "tokenizer", "show", tokenizer, "the ☕ sun", "--json"))
    assert "".join(span["text"] for span in found["spans"]) == "the ☕ sun"
    assert sum(len(span["ids"]) for span in found["spans"]) == found["tokens"]
    assert found["bytes_per_token"] == round(11 / found["tokens"], 3)
    assert any(len(span["ids"]) > 1 for span in found["spans"])
    assert json.loads(told(capsys, "tokenizer", "show", tokenizer, "", "--json"))["tokens"] == 0


def test_tokenizer_show_in_colours(tokenizer: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = told(capsys, "tokenizer", "show", tokenizer, "the sun\x1b[2J\nrises")
    assert "\x1b[38;5;231m\x1b[48;5;24m" in out or "\x1b[38;5;231;48;5;24m" in out
    assert "␛" in out
    assert "\x1b[2J" not in out
    assert "⏎" in out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in told(capsys, "tokenizer", "show", tokenizer, "the sun")


def test_tokenizer_show_reads_files_and_standard_input(
    tokenizer: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"the sun " * 1000 + b"\xff")
    found = json.loads(told(capsys, "tokenizer", "show", tokenizer, str(path), "--characters", "16", "--json"))
    assert found["characters"] == 8001
    assert 16 <= len("".join(span["text"] for span in found["spans"])) < 30
    assert "characters are shown" in told(capsys, "tokenizer", "show", tokenizer, str(path), "--characters", "16")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"over the hill")))
    assert json.loads(told(capsys, "tokenizer", "show", tokenizer, "-", "--json"))["characters"] == 13
    monkeypatch.setattr("daybreak.cli.tokens._MOST_BYTES", 1 << 10)
    assert json.loads(told(capsys, "tokenizer", "show", tokenizer, str(path), "--json"))["bytes"] == 1 << 10


def test_tokenizer_show_opens_what_holds_a_tokenizer(data_dir: Path, run_dir: Path, capsys: Captured) -> None:
    for name in ("bytes", str(data_dir), str(run_dir), str(run_dir / "model")):
        assert json.loads(told(capsys, "tokenizer", "show", name, "dawn", "--json"))["tokens"] == 4


def test_tokenizer_show_writes_a_page(tokenizer: str, tmp_path: Path, capsys: Captured) -> None:
    page = tmp_path / "tokens.html"
    written = "the <b>sun</b> & ☕\n"
    out = told(capsys, "tokenizer", "show", tokenizer, written, "--out", str(page))
    assert str(page) in out
    seen: list[tuple[str, dict[str, Any]]] = []
    text: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append((tag, dict(attrs)))

        def handle_data(self, data: str) -> None:
            if seen and seen[-1][0] == "span" and "title" in seen[-1][1]:
                text.append(data)

    Reader(convert_charrefs=True).feed(page.read_text(encoding="utf-8"))
    assert "".join(text).startswith(written)
    assert not [tag for tag, _ in seen if tag in ("script", "b")]
    ids = [attrs["title"].split(",")[0] for tag, attrs in seen if tag == "span" and "title" in attrs]
    assert ids[0] == f"id {load_tokenizer(tokenizer).encode('the')[0]}"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["nowhere", "text"], "tokenizer nowhere: neither a name (gpt2, bytes) nor a folder"),
        (["gtp2", "text"], "did you mean gpt2?"),
        (["TOK", "nowhere.txt"], "nowhere.txt: wanted a text or a file with one, came the name of a file that is not there"),
        (["TOK", "text", "--characters", "0"], "--characters: wanted at least 1, came 0"),
        (["TOK", "text", "--out", "."], ".: cannot be written"),
        ([".", "text"], "wanted tokenizer.json"),
    ],
)
def test_tokenizer_show_refuses_in_a_line(
    words: list[str], part: str, tokenizer: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(tokenizer).parent)
    words = ["tok" if word == "TOK" else word for word in words]
    assert part in told(capsys, "tokenizer", "show", *words, status=2)

"""`daybreak tokenizer show`: a text coloured by its tokens."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daybreak.cli import speak

if TYPE_CHECKING:
    from daybreak.data.looking import Span
    from daybreak.data.tokenizer import Tokenizer

_MOST_BYTES = 16 << 20
_BACKGROUNDS = (24, 58, 29, 53, 94, 23)
"""Of the terminal's 256 colours: dark, so that white letters stand out."""


def show(
    tokenizer: Annotated[
        str, typer.Argument(metavar="DIR|NAME", help="gpt2, bytes, or a folder: a tokenizer's, a run's, or prepared data.")
    ],
    text: Annotated[str, typer.Argument(metavar="TEXT|FILE", help="A text, a file with one, or - for standard input.")],
    characters: Annotated[int, typer.Option(help="How much of the text to show; the figures are of all.")] = 2000,
    out: Annotated[Path | None, typer.Option(metavar="PAGE", help="Write the coloured text as a page too, such as tokens.html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print figures and tokens as one JSON object.")] = False,
) -> None:
    """Show how a tokenizer cuts a text: each token in its colour, how many there are, and how many bytes each stands for."""
    from daybreak.cli.pages import write_page
    from daybreak.config import ConfigError
    from daybreak.data.looking import spans
    from daybreak.report import tokens as view

    if characters < 1:
        raise ConfigError([f"--characters: wanted at least 1, came {characters}"])
    found = _tokenizer(tokenizer)
    whole, cut = _text(text)
    ids = found.encode(whole)
    size = len(whole.encode("utf-8", "replace"))
    figures = {
        "tokenizer": found.name,
        "vocab_size": found.vocab_size,
        "tokens": len(ids),
        "characters": len(whole),
        "bytes": size,
        "bytes_per_token": round(size / max(1, len(ids)), 3),
        "distinct_tokens": len(set(ids.tolist())),
    }
    shown = _beginning(spans(found, ids), characters)
    length = sum(len(span.text) for span in shown)
    notes = [f"the first {length:,} of {len(whole):,} characters are shown"] if length < len(whole) else []
    notes += [f"of the text the first {_MOST_BYTES >> 20} MB are read"] if cut else []
    page = None
    if out is not None:
        told = [
            ("tokens", f"{len(ids):,}", f"{figures['distinct_tokens']:,} different ones"),
            ("bytes per token", f"{figures['bytes_per_token']:.2f}", f"{size:,} bytes in all"),
            ("vocabulary", f"{found.vocab_size:,}", found.name),
        ]
        made = view.page(_short(text), [(span.tokens, span.text) for span in shown], told, "; ".join(notes))
        page = write_page(out, made)
    if as_json:
        pieces = [{"ids": list(span.tokens), "text": span.text} for span in shown]
        speak.result({**figures, "spans": pieces, "page": page}, as_json, "")
        return
    _draw(shown)
    head = (
        f"{len(ids):,} tokens, {figures['distinct_tokens']:,} different ones, {size:,} bytes, {size / max(1, len(ids)):.2f} bytes per token"
    )
    lines = ["", *notes, f"{head} ({found.name}, {found.vocab_size:,} ids)", *([] if page is None else [page])]
    speak.write("\n".join(lines) + "\n")


def _tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a name, or of a folder that holds one, a run, or prepared data."""
    from daybreak.data.foreign import is_foreign, open_manifest, open_tokenizer
    from daybreak.data.tokenizer import load_tokenizer

    folder = Path(name)
    if name in ("gpt2", "bytes") or not folder.is_dir():
        return load_tokenizer(name)
    if is_foreign(folder):
        return open_tokenizer(open_manifest(folder))
    inner = next((inner for inner in (folder / "tokenizer", folder / "model") if (inner / "tokenizer.json").is_file()), folder)
    return load_tokenizer(folder if (folder / "tokenizer.json").is_file() else inner)


def _text(written: str) -> tuple[str, bool]:
    """The text that is meant, and whether it was cut: what is written, unless it names a file or standard input."""
    from daybreak import files

    if written == "-":
        raw = sys.stdin.buffer.read(_MOST_BYTES + 1)
    elif _is_file(written):
        try:
            with open(written, "rb") as file:
                raw = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise files.FileProblem(f"{written}: cannot be read ({error.strerror or error}); name another file or a text") from None
    elif written.endswith((".txt", ".md", ".py", ".json", ".jsonl")) and " " not in written:
        raise files.FileProblem(f"{written}: wanted a text or a file with one, came the name of a file that is not there")
    else:
        return written, False
    return raw[:_MOST_BYTES].decode("utf-8", "replace"), len(raw) > _MOST_BYTES


def _is_file(written: str) -> bool:
    try:
        return Path(written).is_file()
    except (OSError, ValueError):  # a text too long for a name, or with a zero byte
        return False


def _beginning(spans: Iterable[Span], characters: int) -> list[Span]:
    """The first tokens, of as many characters as are to be shown."""
    shown: list[Span] = []
    length = 0
    for span in spans:
        if length >= characters:
            break
        shown.append(span)
        length += len(span.text)
    return shown


def _draw(shown: list[Span]) -> None:
    """The text with colours where the terminal has them, else with a line between tokens."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if console.color_system is None or console.no_color:
        speak.write("│".join(span.text for span in shown) + "\n")
        return
    text = Text()
    for number, span in enumerate(shown):
        letters = speak.harmless(span.text).replace("\n", "⏎\n").replace("\t", "→   ")
        text.append(letters, style=f"color(231) on color({_BACKGROUNDS[number % len(_BACKGROUNDS)]})")
    console.print(text, soft_wrap=True, emoji=False)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 60 else f"{flat[:57]}..."

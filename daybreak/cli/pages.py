"""Writes a page where --out says, or tells in one line why it cannot be there."""

from __future__ import annotations

from pathlib import Path


def write_page(out: Path, text: str) -> str:
    """Writes the page whole or not at all and returns its full path. Raises FileProblem."""
    from daybreak import files

    if out.is_dir():
        raise files.FileProblem(f"{out}: cannot be written (it is a folder); choose another --out")
    try:
        files.write_text(out, text)
    except OSError as error:
        raise files.FileProblem(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from None
    return str(out.resolve())

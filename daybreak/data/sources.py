"""From what a person names as a source to documents: files, folders, Hugging Face, standard input, Python's own text.

    for document in documents(["books/", "more.jsonl.zst", "python:docs"]): ...

A source expands to units (`units`), one per file or dataset shard, each readable alone and in any process (`read`).

| source                      | documents                                                            |
|-----------------------------|----------------------------------------------------------------------|
| `book.txt`, `notes.md`, ... | the file                                                             |
| `web.jsonl`                 | each line's field `text` (or another, `text_field`)                  |
| `web.parquet`               | each row's column `text`                                             |
| any of the first two + `.gz`, `.zst` | the same, decompressed as it is read                        |
| `folder/`                   | of every such file in it, in sorted order; hidden and binary skipped |
| `hf:NAME[:CONFIG[:SPLIT]]`  | each row of a dataset on Hugging Face, read where it lies            |
| `python:docs`, `python:code`| the English or the code that comes with Python and daybreak          |
| `-`                         | the standard input                                                   |
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from daybreak.data import embedded
from daybreak.data.documents import Document, SourceProblem, Unit
from daybreak.data.hub import dataset_units
from daybreak.data.readers import PACKED, read

__all__ = ["Document", "SourceProblem", "Unit", "documents", "read", "units"]

_SUFFIXES = """
    .txt .text .md .markdown .rst .adoc .org .tex .bib .html .htm .xhtml .xml .css .csv .tsv .log .srt .yaml .yml .toml .ini .cfg
    .py .pyi .pyx .ipy .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .rs .go .java .kt .scala .swift .m .js .mjs .jsx .ts .tsx .vue .rb .pl .pm
    .php .lua .r .jl .hs .ml .mli .ex .exs .erl .clj .lisp .el .scm .f .f90 .f95 .s .asm .sh .bash .zsh .fish .ps1 .bat .sql .cmake
    .mk .proto .graphql .tf .nix .vim .diff .patch
"""
TEXT_SUFFIXES = frozenset(_SUFFIXES.split())
"""What is read as text in a folder, besides files without a suffix; a file that is named is read whatever it is called."""

PYTHON_SOURCES = {"python:docs": "docs", "python:code": "code"}


def documents(sources: Sequence[str], *, text_field: str = "text", skips: Counter[str] | None = None) -> Iterator[Document]:
    """The documents of all sources, in order. `skips` is counted up with what was left out or repaired, by reason.

    Raises SourceProblem if a source is missing, damaged or of a kind that cannot be read.
    """
    skips = Counter() if skips is None else skips
    for source in sources:
        for unit in units(source, text_field=text_field, skips=skips):
            yield from read(unit, skips)


def units(source: str, *, text_field: str = "text", skips: Counter[str] | None = None, outside: Path | None = None) -> list[Unit]:
    """The units of a source, in a fixed order. Files inside the folder `outside` are left out. Raises SourceProblem."""
    skips = Counter() if skips is None else skips
    if source == "-":
        return [Unit("stdin", "-", "standard input")]
    if source.startswith("hf:"):
        return dataset_units(source, text_field)
    if source.startswith("python:"):
        return _python_units(source)
    path = Path(source)
    try:
        if path.is_dir():
            found = _folder_units(path, text_field, skips, outside)
            if not found:
                raise SourceProblem(
                    f"{source}: wanted a folder with text, found no file that can be read in it ({_told(skips) or 'empty'})"
                )
            return found
        return [_file_unit(path, text_field, named=True)]
    except FileNotFoundError:
        raise SourceProblem(_missing(source)) from None
    except OSError as error:
        raise SourceProblem(f"{source}: cannot be read ({error.strerror}); check its permissions") from None


# --- What a source consists of ---


def _missing(source: str) -> str:
    path = Path(source)
    if path.is_symlink():
        return f"{source}: wanted a file or a folder, found nothing where this link leads ({path.readlink()}); mend it, or name another"
    parent = path.parent
    siblings = [entry.name for entry in parent.iterdir()] if parent.is_dir() and os.access(parent, os.R_OK) else []
    close = [str(parent / name) for name in difflib.get_close_matches(path.name, siblings, 1)]
    close = close or difflib.get_close_matches(source, PYTHON_SOURCES, 1)
    hint = f"did you mean {close[0]}?" if close else "give a file, a folder, hf:NAME, python:docs, python:code or -"
    return f"{source}: wanted a file or a folder, found nothing there; {hint}"


def _file_unit(path: Path, text_field: str, *, named: bool) -> Unit:
    status = path.stat()
    if not (path.is_file() or path.is_fifo()):
        raise SourceProblem(f"{path}: wanted a file or a folder, came a device or socket")
    suffix = _inner_suffix(path.name)
    kind = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}.get(suffix, "text")
    if named and suffix == ".json":
        raise SourceProblem(f"{path}: wanted text or JSON lines, came .json; write one object per line to a .jsonl file, or name it .txt")
    return Unit(kind, str(path), str(path), status.st_size, str(status.st_mtime_ns), text_field, named)


def _inner_suffix(name: str) -> str:
    """The suffix that tells what a file holds: `.jsonl` of `a.jsonl.zst`."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in PACKED else path.suffix


def _folder_units(folder: Path, text_field: str, skips: Counter[str], outside: Path | None) -> list[Unit]:
    excluded = outside.resolve() if outside else None

    def stop(error: OSError) -> None:
        raise SourceProblem(f"{error.filename}: cannot be read ({error.strerror}); check its permissions")

    found = []
    for root, folders, names in os.walk(folder, onerror=stop):
        kept = [name for name in folders if not name.startswith(".") and (excluded is None or (Path(root) / name).resolve() != excluded)]
        skips["hidden"] += sum(name.startswith(".") for name in (*folders, *names))
        folders[:] = kept
        for name in names:
            if name.startswith("."):
                continue
            path = Path(root, name)
            suffix = _inner_suffix(name)
            if suffix not in TEXT_SUFFIXES and suffix not in ("", ".jsonl", ".ndjson", ".parquet"):
                skips["not text"] += 1
            elif not path.is_file():
                skips["broken link"] += 1
            else:
                found.append(_file_unit(path, text_field, named=False))
    skips += Counter()  # drops zeros
    return sorted(found, key=lambda unit: Path(unit.path).parts)


def _python_units(source: str) -> list[Unit]:
    if source not in PYTHON_SOURCES:
        raise SourceProblem(f"{source}: wanted python:docs (English) or python:code, came another name")
    found = []
    for file in embedded.files(PYTHON_SOURCES[source]):
        try:
            status = file.path.stat()
        except OSError:
            continue  # listed by the package, removed by the distributor
        name = f"{file.package}: {file.name}"
        found.append(Unit(PYTHON_SOURCES[source], str(file.path), name, status.st_size, str(status.st_mtime_ns), named=False))
    return found


def _told(skips: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(skips.items()))

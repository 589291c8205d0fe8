"""From a unit to its documents: one reader for each kind of file or dataset, and what every text goes through.

A byte order mark is removed. Bytes that are no UTF-8 become U+FFFD and the document is counted as "repaired". What is left out
is counted by its reason. Line ends and all else stay as they are.
"""

from __future__ import annotations

import codecs
import json
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from daybreak.data import embedded, hub, parquet
from daybreak.data.documents import Document, SourceProblem, Unit, one_line, without_surrogates

PACKED = (".gz", ".zst")
"""Suffixes of what is decompressed as it is read."""


def read(unit: Unit, skips: Counter[str]) -> Iterator[Document]:
    """The documents of a unit. Empty ones are left out and counted in `skips`; damage raises SourceProblem."""
    try:
        for document in READERS[unit.kind](unit, skips):
            if not document.text or document.text.isspace():
                skips["empty"] += 1
            else:
                yield document
    except OSError as error:
        raise SourceProblem(
            f"{unit.name}: cannot be read ({error.strerror or one_line(error)}); check the file and its permissions"
        ) from None


# --- Bytes ---


def _chunks(path: str, name: str) -> Iterator[bytes]:
    """The content of a file in pieces, decompressed if its name says so. Raises SourceProblem if the compressed data is damaged or cut."""
    suffix = Path(path).suffix.lower()
    with open(path, "rb") as file:
        pieces = iter(lambda: file.read(1 << 18), b"")
        if suffix == ".gz":
            yield from _unpacked(pieces, lambda: zlib.decompressobj(wbits=31), zlib.error, name, "gzip")
        elif suffix == ".zst":
            try:
                import zstandard
            except ImportError:
                raise SourceProblem(f"{name}: reading .zst needs the package zstandard; install it with: pip install zstandard") from None
            unpacker = zstandard.ZstdDecompressor(max_window_size=2**31)
            yield from _unpacked(pieces, unpacker.decompressobj, zstandard.ZstdError, name, "zstandard")
        else:
            yield from pieces


def _unpacked(pieces: Iterable[bytes], start: Callable[[], Any], failure: type[Exception], name: str, kind: str) -> Iterator[bytes]:
    """Decompresses one or more members that follow each other."""
    unpacker = None
    try:
        for piece in pieces:
            while piece:
                unpacker = unpacker or start()
                yield unpacker.decompress(piece)
                piece = b""
                if unpacker.eof:
                    piece, unpacker = unpacker.unused_data, None
                    if not piece.strip(b"\0"):  # tape tools pad with zeros
                        break
    except failure as error:
        raise SourceProblem(f"{name}: wanted {kind} data, it is damaged ({error}); fetch it again") from None
    if unpacker is not None:
        raise SourceProblem(f"{name}: the {kind} data is cut short; fetch it again")


def _decoded(raw: bytes, skips: Counter[str]) -> str:
    """UTF-8 (or UTF-16 with a byte order mark) to text. Bytes that are neither become U+FFFD and are counted."""
    encoding = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        skips["repaired"] += 1
        return raw.decode(encoding, errors="replace")


def _is_binary(raw: bytes) -> bool:
    return b"\0" in raw and not raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


# --- One reader per kind of unit: (unit, skips) -> documents ---


def _read_text(unit: Unit, skips: Counter[str]) -> Iterator[Document]:
    raw = b"".join(_chunks(unit.path, unit.name))
    if _is_binary(raw):
        if unit.named:
            raise SourceProblem(f"{unit.name}: wanted text, came a binary file (it holds zero bytes); convert it to UTF-8 text first")
        skips["binary"] += 1
        return
    yield Document(_decoded(raw, skips), unit.name)


def _read_stdin(unit: Unit, skips: Counter[str]) -> Iterator[Document]:
    raw = sys.stdin.buffer.read()
    if _is_binary(raw):
        raise SourceProblem("standard input: wanted text, came binary data (it holds zero bytes); convert it to UTF-8 text first")
    yield Document(_decoded(raw, skips), unit.name)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Splits at line feeds; a line may reach over any number of chunks."""
    parts: list[bytes] = []
    for chunk in chunks:
        first, *rest = chunk.split(b"\n")
        parts.append(first)
        if rest:
            yield b"".join(parts)
            yield from rest[:-1]
            parts = [rest[-1]]
    yield b"".join(parts)


def _piece_lines(unit: Unit) -> Iterator[bytes]:
    """The lines that begin in the unit's share of the file's bytes; the last of them may end beyond."""
    size = Path(unit.path).stat().st_size
    position, beyond = size * unit.shard // unit.shards, size * (unit.shard + 1) // unit.shards
    with open(unit.path, "rb") as file:
        if position:
            file.seek(position - 1)
            position += len(file.readline()) - 1
        while position < beyond and (line := file.readline()):
            position += len(line)
            yield line


def _place(unit: Unit, row: int) -> str:
    return f"{unit.name}:{row}" if unit.shards == 1 else f"{unit.name}:{unit.shard}:{row}"


def _read_jsonl(unit: Unit, skips: Counter[str]) -> Iterator[Document]:
    parsed, bad, fields = 0, 0, set[str]()
    for number, line in enumerate(_piece_lines(unit) if unit.shards > 1 else _lines(_chunks(unit.path, unit.name)), 1):
        if not line or line.isspace():
            continue
        try:
            row = json.loads(_decoded(line, skips))
        except (ValueError, RecursionError):
            bad += 1
            skips["bad JSON line"] += 1
            continue
        parsed += 1
        text = row.get(unit.text_field) if isinstance(row, dict) else None
        if isinstance(text, str):
            yield Document(_whole_text(text, skips), _place(unit, number))
            fields.add(unit.text_field)
        else:
            skips["no text field"] += 1
            fields.update(row if isinstance(row, dict) and len(fields) < 20 else ())
    if unit.shard:
        return  # a file is judged by its first piece
    if bad and not parsed:
        raise SourceProblem(f"{unit.name}: wanted JSON lines, no line of {bad:,} is JSON; name it .txt if it is text")
    if parsed and unit.named and unit.text_field not in fields:
        shown = ", ".join(sorted(fields)) or "no fields"
        raise SourceProblem(
            f"{unit.name}: wanted a field {unit.text_field!r} with text, the lines have {shown}; choose one with --text-field"
        )


def _whole_text(text: str, skips: Counter[str]) -> str:
    mended = without_surrogates(text)
    if mended is None:
        return text
    skips["repaired"] += 1
    return mended


def _read_parquet(unit: Unit, skips: Counter[str]) -> Iterator[Document]:
    try:
        import pyarrow
    except ImportError:
        raise SourceProblem(
            f"{unit.name}: reading parquet needs the package pyarrow; install it with: pip install 'daybreak[parquet]'"
        ) from None
    try:
        for row, text in enumerate(parquet.texts(unit.path, unit)):
            if text is None:
                skips["no text field"] += 1
            else:
                yield Document(text, _place(unit, row))
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's own; those of pyarrow have no number
            raise
        raise SourceProblem(
            f"{unit.name}: wanted a parquet file, it is damaged or of another kind ({one_line(error)}); fetch it again"
        ) from None


def _read_docs(unit: Unit, skips: Counter[str]) -> Iterator[Document]:
    raw = Path(unit.path).read_bytes()
    if _is_binary(raw):
        skips["binary"] += 1
        return
    text = _decoded(raw, skips)
    if unit.path.endswith(".py"):
        module = unit.name.partition(": ")[2]
        try:
            if Path(unit.path).as_posix().endswith(embedded.TOPICS):
                for topic, explained in embedded.topics(text):
                    yield Document(explained, f"{unit.name}: {topic}")
                return
            text = embedded.prose(text, module)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            skips["no Python that parses"] += 1
            return
    yield Document(text, unit.name)


READERS: dict[str, Callable[[Unit, Counter[str]], Iterator[Document]]] = {
    "text": _read_text,
    "stdin": _read_stdin,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    **hub.READERS,
    "docs": _read_docs,
    "code": _read_text,
}

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from daybreak.data import embedded


class SourceProblem(ValueError):
    """A source that is missing, damaged or without text; one line that names it and the way out."""


class Document(NamedTuple):
    """A text and where it came from."""

    text: str
    name: str


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of a source that is read alone: a file, or a shard of a dataset. Plain values, so that it can travel to a worker."""

    kind: str
    """Which reader it needs: "text", "jsonl", "parquet", "stdin", "docs", "code" or "hf"."""
    path: str
    """The file, or for "hf" the dataset's NAME:CONFIG:SPLIT."""
    name: str
    """What it is called in messages and manifests: the path as given, the module, the dataset."""
    size: int = 0
    """Bytes on the disk, or 0 if unknown."""
    stamp: str = ""
    """Changes when the content does: a file's modification time in nanoseconds, a dataset's revision."""
    text_field: str = "text"
    """The field or column that holds the text."""
    named: bool = True
    """Whether a person named this very file; one found in a folder is skipped where a named one is an error."""
    shard: int = 0
    shards: int = 1
    """For "hf": which of how many parts of the dataset."""


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


def one_line(error: BaseException) -> str:
    """What an error of another library says, on one line and not too long."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


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


def _read_jsonl(unit: Unit, skips: Counter[str]) -> Iterator[Document]:
    parsed, bad, fields = 0, 0, set[str]()
    for number, line in enumerate(_lines(_chunks(unit.path, unit.name)), 1):
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
            yield Document(_without_surrogates(text, skips), f"{unit.name}:{number}")
            fields.add(unit.text_field)
        else:
            skips["no text field"] += 1
            fields.update(row if isinstance(row, dict) and len(fields) < 20 else ())
    if bad and not parsed:
        raise SourceProblem(f"{unit.name}: wanted JSON lines, no line of {bad:,} is JSON; name it .txt if it is text")
    if parsed and unit.named and unit.text_field not in fields:
        shown = ", ".join(sorted(fields)) or "no fields"
        raise SourceProblem(
            f"{unit.name}: wanted a field {unit.text_field!r} with text, the lines have {shown}; choose one with --text-field"
        )


def _without_surrogates(text: str, skips: Counter[str]) -> str:
    r"""JSON may hold half of a pair such as \ud83d, which no encoding can write: it becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        skips["repaired"] += 1
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _read_parquet(unit: Unit, skips: Counter[str]) -> Iterator[Document]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise SourceProblem(
            f"{unit.name}: reading parquet needs the package pyarrow; install it with: pip install 'daybreak[parquet]'"
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(unit.path) as file:
            schema = file.schema_arrow
            if unit.text_field not in schema.names:
                columns = ", ".join(schema.names) or "none"
                raise SourceProblem(f"{unit.name}: wanted a column {unit.text_field!r}, it has {columns}; choose one with --text-field")
            kind = schema.field(unit.text_field).type
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=[unit.text_field]):
                for text in batch.column(0).to_pylist():
                    if text is None:
                        skips["no text field"] += 1
                    elif isinstance(text, str):
                        yield Document(text, f"{unit.name}:{row}")
                    else:
                        raise SourceProblem(
                            f"{unit.name}: wanted text in column {unit.text_field!r}, came {kind}; choose another with --text-field"
                        )
                    row += 1
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's own; those of pyarrow have no number
            raise
        raise SourceProblem(
            f"{unit.name}: wanted a parquet file, it is damaged or of another kind ({one_line(error)}); fetch it again"
        ) from None


def no_datasets(source: str) -> str:
    """What to say if the library is not there."""
    return f"{source}: reading from Hugging Face needs the package datasets; install it with: pip install 'daybreak[hf]'"


def open_dataset(unit: Unit) -> Any:
    """The unit's whole dataset as a stream of rows, at its revision. Raises SourceProblem if it cannot be opened."""
    try:
        import datasets
    except ImportError:
        raise SourceProblem(no_datasets(unit.name)) from None
    name, config, split = unit.path.split(":")
    try:
        return datasets.load_dataset(name, config or None, split=split, streaming=True, revision=unit.stamp or None)
    except Exception as error:
        raise SourceProblem(f"{unit.name}: cannot be opened ({one_line(error)}); check name, configuration and split") from None


def _read_dataset(unit: Unit, skips: Counter[str]) -> Iterator[Document]:
    data = open_dataset(unit)
    if unit.shards > 1:
        data = data.shard(num_shards=unit.shards, index=unit.shard)
    rows = iter(data)
    number = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # what the library or the network raises has no common class
            raise SourceProblem(f"{unit.name}: reading stopped at row {number:,} ({one_line(error)}); run again to continue") from None
        text = row.get(unit.text_field)
        if isinstance(text, str):
            yield Document(_without_surrogates(text, skips), f"{unit.name}:{unit.shard}:{number}")
        else:
            skips["no text field"] += 1
        number += 1


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
    "hf": _read_dataset,
    "docs": _read_docs,
    "code": _read_text,
}

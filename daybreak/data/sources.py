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
| `hf:NAME[:CONFIG[:SPLIT]]`  | each row of a dataset on Hugging Face, streamed                      |
| `python:docs`, `python:code`| the English or the code that comes with Python and daybreak          |
| `-`                         | the standard input                                                   |

A byte order mark is removed. Bytes that are no UTF-8 become U+FFFD and the document is counted as "repaired". What is left out
is counted by its reason. Line ends and all else stay as they are.
"""

from __future__ import annotations

import codecs
import difflib
import json
import os
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
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


_SUFFIXES = """
    .txt .text .md .markdown .rst .adoc .org .tex .bib .html .htm .xhtml .xml .css .csv .tsv .log .srt .yaml .yml .toml .ini .cfg
    .py .pyi .pyx .ipy .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .rs .go .java .kt .scala .swift .m .js .mjs .jsx .ts .tsx .vue .rb .pl .pm
    .php .lua .r .jl .hs .ml .mli .ex .exs .erl .clj .lisp .el .scm .f .f90 .f95 .s .asm .sh .bash .zsh .fish .ps1 .bat .sql .cmake
    .mk .proto .graphql .tf .nix .vim .diff .patch
"""
TEXT_SUFFIXES = frozenset(_SUFFIXES.split())
"""What is read as text in a folder, besides files without a suffix; a file that is named is read whatever it is called."""

PACKED = (".gz", ".zst")
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
        return _dataset_units(source, text_field)
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
            f"{unit.name}: cannot be read ({error.strerror or _one_line(error)}); check the file and its permissions"
        ) from None


# --- What a source consists of ---


def _missing(source: str) -> str:
    path = Path(source)
    parent = path.parent
    siblings = [entry.name for entry in parent.iterdir()] if parent.is_dir() and os.access(parent, os.R_OK) else []
    close = [str(parent / name) for name in difflib.get_close_matches(path.name, siblings, 1)]
    close = close or difflib.get_close_matches(source, PYTHON_SOURCES, 1)
    hint = f"did you mean {close[0]}?" if close else "give a file, a folder, hf:NAME, python:docs, python:code or -"
    return f"{source}: wanted a file or a folder, found nothing there; {hint}"


def _file_unit(path: Path, text_field: str, *, named: bool) -> Unit:
    status = path.stat()
    if not (path.is_file() or path.is_fifo()):
        raise SourceProblem(f"{path}: wanted a file or a folder, got a device or socket")
    suffix = _inner_suffix(path.name)
    kind = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}.get(suffix, "text")
    if named and suffix == ".json":
        raise SourceProblem(f"{path}: wanted text or JSON lines, got .json; write one object per line to a .jsonl file, or name it .txt")
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
        raise SourceProblem(f"{source}: wanted python:docs (English) or python:code, got another name")
    found = []
    for file in embedded.files(PYTHON_SOURCES[source]):
        try:
            status = file.path.stat()
        except OSError:
            continue  # listed by the package, removed by the distributor
        name = f"{file.package}: {file.name}"
        found.append(Unit(PYTHON_SOURCES[source], str(file.path), name, status.st_size, str(status.st_mtime_ns), named=False))
    return found


def _dataset_units(source: str, text_field: str) -> list[Unit]:
    parts = source.removeprefix("hf:").split(":")
    if not parts[0] or len(parts) > 3:
        raise SourceProblem(
            f"{source}: wanted hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT, such as hf:HuggingFaceFW/fineweb-edu:sample-10BT"
        )
    name, config, split = (*parts, "", "")[:3]
    path = ":".join((name, config, split or "train"))
    try:
        import huggingface_hub

        revision = str(huggingface_hub.HfApi().dataset_info(name).sha or "")
    except ImportError:
        raise SourceProblem(_no_datasets(source)) from None
    except Exception as error:  # network, permissions, no such dataset: the library has its own class for each
        raise SourceProblem(f"{source}: cannot be reached ({_one_line(error)}); check the name and the network") from None
    data = _dataset(Unit("hf", path, source, stamp=revision, text_field=text_field))
    columns = data.column_names
    if columns is not None and text_field not in columns:
        raise SourceProblem(f"{source}: wanted a column {text_field!r}, it has {', '.join(columns)}; choose one with --text-field")
    info = (data.info.splits or {}).get(split or "train") if data.info else None
    size = int(getattr(info, "num_bytes", 0) or 0)
    shards = max(1, int(data.n_shards))
    return [Unit("hf", path, source, size // shards, revision, text_field, True, shard, shards) for shard in range(shards)]


def _no_datasets(source: str) -> str:
    return f"{source}: reading from Hugging Face needs the package datasets; install it with: pip install 'daybreak[hf]'"


def _dataset(unit: Unit) -> Any:
    try:
        import datasets
    except ImportError:
        raise SourceProblem(_no_datasets(unit.name)) from None
    name, config, split = unit.path.split(":")
    try:
        return datasets.load_dataset(name, config or None, split=split, streaming=True, revision=unit.stamp or None)
    except Exception as error:
        raise SourceProblem(f"{unit.name}: cannot be opened ({_one_line(error)}); check name, configuration and split") from None


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def _told(skips: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(skips.items()))


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
            raise SourceProblem(f"{unit.name}: wanted text, got a binary file (it holds zero bytes); convert it to UTF-8 text first")
        skips["binary"] += 1
        return
    yield Document(_decoded(raw, skips), unit.name)


def _read_stdin(unit: Unit, skips: Counter[str]) -> Iterator[Document]:
    raw = sys.stdin.buffer.read()
    if _is_binary(raw):
        raise SourceProblem("standard input: wanted text, got binary data (it holds zero bytes)")
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
                            f"{unit.name}: wanted text in column {unit.text_field!r}, got {kind}; choose another with --text-field"
                        )
                    row += 1
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's own; those of pyarrow have no number
            raise
        raise SourceProblem(
            f"{unit.name}: wanted a parquet file, it is damaged or of another kind ({_one_line(error)}); fetch it again"
        ) from None


def _read_dataset(unit: Unit, skips: Counter[str]) -> Iterator[Document]:
    data = _dataset(unit)
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
            raise SourceProblem(f"{unit.name}: reading stopped at row {number:,} ({_one_line(error)}); run again to continue") from None
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

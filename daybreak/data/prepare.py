"""From sources to a data folder: read, shuffle, drop duplicates, split, tokenize, write shards. Parallel and restartable.

    for progress in prepare(["books/", "python:docs"], Path("data/mine"), tokenizer="bpe", vocab_size=8192): print(progress)

When the generator ends, the folder is complete: `train-*.bin`, `val-*.bin`, `tokenizer/` and, written last, `manifest.json`. The same
request gives the same bytes with any number of processes, and however often it was killed and started again.

1. read       every unit's documents go to DIR/.prepare/read, sorted by a keyed hash: that order is the shuffle
2. merge      only of more than some 100 GB: many sorted runs become few
3. tokenizer  bpe or chars is learned from the first documents in that order
4. tokenize   stretch by stretch of hashes: duplicates dropped, validation chosen, each document written as [end of text] + tokens
5. write      the stretches one after the other, cut into shards; then the manifest

Each is cut into tasks that any number of processes do, here or on the machines of a cluster (`engines`), and a task that was
interrupted is done again.

What it takes, for a corpus of any size (benchmarks/prepare_scale.py): memory, less than 0.6 GB for each process, besides several times the
largest document, and 0.8 kB for each source file in the first process; disk, the text compressed, about a third of it, and its tokens,
half of it for English in gpt2's vocabulary: the text goes when it is tokenized, the tokens go as the shards come.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from daybreak.data.assembly import assemble
from daybreak.data.documents import SourceProblem, Unit
from daybreak.data.engines import ENGINES, EngineProblem, open_engine
from daybreak.data.manifest import Manifest, ManifestProblem, load_manifest
from daybreak.data.plan import LEARNED, NAMED, PLAN, WORK, PrepareProblem, Request, UselessText, clear, is_complete, locked, resume_or_start
from daybreak.data.readers import PACKED
from daybreak.data.reading import merge, open_documents, read_units
from daybreak.data.shards import ShardProblem, check_vocabulary
from daybreak.data.sources import units as units_of
from daybreak.data.splitting import choose_split
from daybreak.data.tokenizer import load_tokenizer
from daybreak.data.tokenizing import find_tokenizer, tokenize
from daybreak.data.workers import WorkerProblem, usable_cores
from daybreak.files import need_space, replacing, sha256

__all__ = ["Manifest", "ManifestProblem", "PrepareProblem", "Progress", "SourceProblem", "load_manifest", "prepare"]

SMALL_BYTES = 3_000_000
"""Below this, starting processes costs more than they save."""


@dataclass(frozen=True)
class Progress:
    """How far a preparation is. `stage`: list, read, merge, tokenizer, tokenize, write, done."""

    stage: str
    done: int
    total: int | None
    """None if unknown."""
    unit: str
    """What is counted: "bytes", "tokens", "documents", ..."""
    note: str = ""
    """A sentence for the reader, or empty."""


def prepare(
    sources: Sequence[str],
    out: Path,
    *,
    tokenizer: str = "bpe",
    vocab_size: int = 8192,
    val_fraction: float = 0.01,
    split: str = "auto",
    seed: int = 1337,
    workers: int | None = None,
    shard_tokens: int = 100_000_000,
    text_field: str = "text",
    engine: str = "local",
    engine_address: str | None = None,
) -> Iterator[Progress]:
    """Prepares `sources` (see `sources`) in the folder `out` as it is iterated over; at the end the folder is complete.

    `tokenizer`: gpt2, bytes, bpe (learned, `vocab_size` tokens), chars (learned), or a tokenizer's folder. `split`: "document" takes each
    document into validation with the chance `val_fraction`; "tail" takes the end of every document, that share of its characters;
    "auto" chooses "tail" for few documents. `workers`: processes, default one per core. `engine`: "local", or "dask" for the workers of
    the cluster at `engine_address` (see `engines`). Run again with the same request it continues where it was, or finds that nothing is
    left to do.

    Raises PrepareProblem, SourceProblem, ShardProblem, FileProblem or the tokenizer's problem, all ValueErrors of one line; wrong options
    at once, a line for each. What was done stays for the next run.
    """
    learned_size = vocab_size if tokenizer == "bpe" else None
    wrong = [] if workers is None or workers >= 1 else [f"workers: wanted at least 1, came {workers}"]
    if engine not in ENGINES:
        wrong.append(f"engine: wanted {' or '.join(ENGINES)}, came {engine}")
    if engine_address is not None and engine == "local":
        wrong.append(f"engine_address: wanted none for the engine local, came {engine_address}; add --engine dask")
    try:
        request = Request(tuple(sources), tokenizer, learned_size, val_fraction, split, seed, shard_tokens, text_field)
    except PrepareProblem as problem:
        raise PrepareProblem("\n".join([str(problem), *wrong])) from None
    if wrong:
        raise PrepareProblem("\n".join(wrong))
    return _told_problems(request, Path(out), Means(engine, engine_address, workers))


@dataclass(frozen=True)
class Means:
    """With what the work is done; no byte of the result depends on it."""

    engine: str
    address: str | None
    workers: int | None

    def workers_for(self, units: Sequence[Unit]) -> int:
        """As many as were asked for, else as there are cores, but one if there is little to do."""
        small = sum(unit.size for unit in units) < SMALL_BYTES and not any(unit.kind in ("hf", "hub") for unit in units)
        return self.workers or (1 if small else usable_cores())


def _told_problems(request: Request, out: Path, means: Means) -> Iterator[Progress]:
    """`_prepare`, with what the disk and the system have to say made problems of one line."""
    try:
        yield from _prepare(request, out, means)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PrepareProblem(f"{out}: the disk is full; free some space and run again: what is done is kept") from None
        raise PrepareProblem(f"{error.filename or out}: {error.strerror or error}; what is done is kept") from None
    except (WorkerProblem, EngineProblem) as error:
        raise PrepareProblem(str(error)) from None


def _prepare(request: Request, out: Path, means: Means) -> Iterator[Progress]:
    known = None if request.tokenizer in LEARNED else load_tokenizer(request.tokenizer)
    if known is not None:
        check_vocabulary(known.vocab_size, request.tokenizer)
    fingerprint = known.fingerprint if known and request.tokenizer not in NAMED else None  # a name means one tokenizer for ever
    if is_complete(out, request, fingerprint):
        clear(out)  # of a process that was killed after its last file
        yield Progress("done", 1, 1, "folders", f"{out} is complete already: nothing to do")
        return
    yield Progress("list", 0, None, "units")
    skips: Counter[str] = Counter()
    listed = {source: units_of(source, text_field=request.text_field, skips=skips, outside=out) for source in request.sources}
    units = [unit for part in listed.values() for unit in part]
    yield Progress("list", len(units), len(units), "units")
    with locked(out), _removed_if_useless(out):
        if is_complete(out, request, fingerprint):  # by another process since
            yield Progress("done", 1, 1, "folders", f"{out} is complete already: nothing to do")
            return
        work = (out / WORK).absolute()
        listed = {source: [_kept_input(unit, work) for unit in part] for source, part in listed.items()}
        units = [unit for part in listed.values() for unit in part]
        note = resume_or_start(out, request, units, fingerprint)
        _need_space(out, units, request)
        with open_engine(means.engine, means.workers_for(units), means.address, work) as pool:
            for done, total in read_units(units, work, request.seed, pool):
                yield Progress("read", done, total, "bytes", note)
                note = ""
            for done, total in merge(work, pool):
                yield Progress("merge", done, total, "bytes")
            documents = open_documents(work)
            skips += documents.skips
            choice = choose_split(documents, request, work, skips)
            if not (work / "tokenizer.done").exists():
                yield Progress("tokenizer", 0, 1, "tokenizers", "" if known else f"learning {request.tokenizer} from the text")
                found = find_tokenizer(documents, choice, known, request, work)
                yield Progress("tokenizer", 1, 1, "tokenizers", f"{found.vocab_size:,} tokens")
            for done, total in tokenize(documents, choice, work, pool):
                yield Progress("tokenize", done, total, "bytes")
            documents.forget()
            for done, total in assemble(out, request, listed, choice, skips, documents.duplicates, pool):
                yield Progress("write", done, total, "tokens")
    clear(out)
    yield Progress("done", 1, 1, "folders")


@contextlib.contextmanager
def _removed_if_useless(out: Path) -> Iterator[None]:
    """If the work did not even begin, or cannot succeed, no trace of it stays in the way of another request."""
    try:
        yield
    except (UselessText, ShardProblem):
        clear(out)
        raise
    finally:
        if not (out / WORK / PLAN).exists():
            clear(out)


def _kept_input(unit: Unit, work: Path) -> Unit:
    """Standard input goes to a file first: a run that is interrupted can then say whether it gets the same again."""
    if unit.kind != "stdin":
        return unit
    path = work / "stdin"
    with replacing(path) as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return dataclasses.replace(unit, kind="text", path=str(path), size=path.stat().st_size, stamp=sha256(path))


def _need_space(out: Path, units: Sequence[Unit], request: Request) -> None:
    """The text compressed and its tokens, at least; what the working files hold already is not needed again."""
    grown = {"docs": 0.3, "parquet": 2.0, "hub": 2.0}
    text = sum(unit.size * (2.0 if unit.path.endswith(PACKED) else grown.get(unit.kind, 1.0)) for unit in units)
    bytes_per_token = 1 if request.tokenizer in ("bytes", "chars") else 4
    present = sum(file.stat().st_size for file in (*(out / WORK).rglob("*"), *out.glob("*.bin")) if file.is_file())
    need_space(out, int(text * (0.4 + 2 / bytes_per_token)) - present)

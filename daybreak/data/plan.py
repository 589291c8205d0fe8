"""What `prepare` was asked for, and what a folder already holds of it: nothing, a part, all, or something else.

DIR/.prepare/plan.json     the request and the files that it read, until the data is complete
DIR/manifest.json          the same request, once it is
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daybreak import files
from daybreak.data.documents import Unit
from daybreak.data.manifest import MANIFEST, load_manifest
from daybreak.data.shards import LARGEST_SHARD
from daybreak.files import read_json, write_json

WORK = ".prepare"
PLAN = "plan.json"
FORMAT = 2
"""Of the working files: another version of this program may cut the work into other parts, and then starts over."""
LEARNED = ("bpe", "chars")
"""The tokenizers that are learned from the text; others are known before it is read."""
NAMED = ("gpt2", "bytes")


class PrepareProblem(ValueError):
    """A request that cannot be met: its options, its text or its folder; one line with the way out."""


class UselessText(PrepareProblem):
    """The text cannot be prepared with these options, however often it is tried: nothing is kept."""


@dataclass(frozen=True)
class Request:
    """Everything that changes the data; two requests that are equal give the same bytes."""

    sources: tuple[str, ...]
    tokenizer: str
    vocab_size: int | None
    """For "bpe"; None for the others, which have their own."""
    val_fraction: float
    split: str
    seed: int
    shard_tokens: int
    text_field: str

    def __post_init__(self) -> None:
        wrong = []
        if not self.sources:
            wrong.append("sources: wanted at least one, came none; name a file, a folder, hf:NAME or python:docs")
        if self.sources.count("-") > 1:
            wrong.append("sources: standard input (-) can be read once, it is named more often")
        if not 0 < self.val_fraction <= 0.5:
            wrong.append(f"val_fraction: wanted more than 0 and at most 0.5, came {self.val_fraction}")
        if self.split not in ("auto", "document", "tail"):
            wrong.append(f"split: wanted auto, document or tail, came {self.split}")
        if not 1 <= self.shard_tokens <= LARGEST_SHARD:
            wrong.append(f"shard_tokens: wanted 1 to {LARGEST_SHARD:,}, came {self.shard_tokens:,}")
        if not -(2**127) <= self.seed < 2**127:
            wrong.append(f"seed: wanted a number of at most 127 bits, came {self.seed}")
        if self.vocab_size is not None and not 257 <= self.vocab_size <= 65_536:
            wrong.append(f"vocab_size: wanted 257 (the bytes and end of text) to 65,536, came {self.vocab_size:,}")
        if wrong:
            raise PrepareProblem("\n".join(wrong))

    def options(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {**dataclasses.asdict(self), "sources": list(self.sources)}

    def differences(self, options: dict[str, Any]) -> list[str]:
        """What another request's options have that this one has not."""
        asked = self.options()
        names = [name for name in {**options, **asked} if options.get(name) != asked.get(name)]
        return [f"{name} {_shown(options.get(name))} (asked for: {_shown(asked.get(name))})" for name in names]


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def is_complete(out: Path, request: Request, fingerprint: str | None) -> bool:
    """Whether the folder holds just what is asked for. `fingerprint`: of the tokenizer, if it is known.

    Raises PrepareProblem if it holds other data or foreign files, ManifestProblem if its manifest is damaged.
    """
    if out.exists() and not out.is_dir():
        raise PrepareProblem(f"{out}: wanted a folder to write to, it is a file; choose another --out")
    if (out / MANIFEST).exists():
        manifest = load_manifest(out)
        _refuse_others(out, request.differences(manifest.options), "holds data prepared with other options")
        if fingerprint not in (None, manifest.tokenizer["fingerprint"]):
            _refuse_others(out, [f"another tokenizer at {request.tokenizer}"], "holds data prepared with other options")
        return True
    if out.is_dir() and not (out / WORK).is_dir():
        foreign = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith("."))
        if foreign:
            raise PrepareProblem(
                f"{out}: wanted a new or empty folder, it holds {', '.join(foreign[:3])}; choose another --out or empty it"
            )
    return False


def _refuse_others(out: Path, differences: list[str], what: str) -> None:
    if differences:
        raise PrepareProblem(f"{out}: {what}: {'; '.join(differences)}; repeat those, choose another --out, or delete the folder")


def resume_or_start(out: Path, request: Request, units: Sequence[Unit], fingerprint: str | None) -> str:
    """Makes DIR/.prepare ready and says in a sentence what it found there: "" if nothing.

    Raises PrepareProblem if an interrupted preparation had another request and has read a part of its text already. If it has read
    none, or its sources changed since, it starts over.
    """
    work = out / WORK
    inventory = [[unit.name, unit.size, unit.stamp, unit.shard] for unit in units]
    plan = {"format": FORMAT, "request": request.options(), "tokenizer": fingerprint, "inventory": inventory}
    note = ""
    if (work / PLAN).exists():
        found = read_json(work / PLAN)
        differences = request.differences(found["request"])
        if not differences and found["tokenizer"] != fingerprint:
            differences = [f"another tokenizer at {request.tokenizer}"]
        if any((work / "read").glob("part-*.json")):
            _refuse_others(out, differences, "holds an unfinished preparation with other options")
        if not differences and found["format"] == FORMAT and found["inventory"] == inventory:
            for left in (*work.rglob(".*.tmp"), *out.glob(".*.tmp")):  # of processes that were killed as they wrote
                left.unlink()
            return "continues where it was interrupted"
        if differences:
            note = "an unfinished preparation with other options had read nothing yet; starts over"
        else:
            note = f"{_first_change(found['inventory'], inventory)} since it was interrupted; starts over"
        for shard in (*out.glob("train-*.bin"), *out.glob("val-*.bin")):
            shard.unlink()
    for entry in work.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name not in ("lock", "stdin"):
            entry.unlink()
    write_json(work / PLAN, plan)
    return note


def _first_change(before: list[list[Any]], now: list[list[Any]]) -> str:
    old, new = {(row[0], row[3]): row for row in before}, {(row[0], row[3]): row for row in now}
    for key in old:
        if key not in new:
            return f"{key[0]} is gone"
        if old[key] != new[key]:
            return f"{key[0]} changed"
    added = [key[0] for key in new if key not in old]
    return f"{added[0]} was added" if added else "the way of working changed"


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Makes DIR/.prepare and holds it for this process; the system lets go of it when the process ends, however it ends.

    Raises PrepareProblem if another process holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(out / WORK / "lock"))
        except files.Held as held:
            who = f"another process ({held.process})" if held.process else "another process"
            raise PrepareProblem(f"{out}: {who} prepares data there; wait for it or choose another --out") from None
        yield


def clear(out: Path) -> None:
    """Removes the working files, the plan last; and the folder too if nothing else is in it."""
    work = out / WORK
    for entry in sorted(work.iterdir(), key=lambda entry: entry.name == PLAN) if work.is_dir() else []:
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        work.rmdir()
        out.rmdir()

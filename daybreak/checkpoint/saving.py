"""Saves a run beside its training: copies the state to host memory, and writes, reads back and publishes it while steps are taken.

    saver = Saver(run, world)
    saver.begin(step, tokens, model, optimizer, state)      # the only moment that training waits
    ...                                                     # steps
    if no rank has `not saver.done_here`: saver.publish()   # on all ranks after the same step
    saver.finish()                                          # at the end: waits and publishes

What ranks have to agree on is settled in `begin` and `publish`; the thread between them touches files only.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from daybreak import files
from daybreak.checkpoint import folder as folders
from daybreak.checkpoint.folder import INDEX, STATE, CheckpointProblem
from daybreak.checkpoint.retention import Retention
from daybreak.checkpoint.shares import KINDS, Share, file_name, index, share_of
from daybreak.checkpoint.tensorfile import HostCopy
from daybreak.world import ALONE, World

_OTHER_FILES = 1 << 20


@dataclass(frozen=True)
class Saved:
    """A checkpoint that has been published."""

    path: Path
    step: int
    tokens: int
    bytes: int
    """Of all ranks' tensors."""
    seconds: float
    """From `begin` to its end: what a last save takes before the process may go."""
    held_up: float
    """Seconds of it that `begin` held up training."""
    permanent: bool
    """Whether it stays for ever."""
    deleted: tuple[str, ...]
    """Older ones that it superseded."""


@dataclass
class _UnderWay:
    """A save between `begin` and `publish`."""

    state: dict[str, Any]
    """The content of state.json."""
    final: Path
    share: Share
    hurry: bool
    bytes: int
    started: float
    held_up: float = 0.0
    exists: bool = False
    """The same was saved before and is whole: nothing to write."""
    thread: threading.Thread | None = None
    files: dict[str, Any] = field(default_factory=dict)
    """This rank's rows of the manifest."""
    failure: str | None = None


class Saver:
    """Writes a run's checkpoints, one at a time. Called by all ranks alike.

    `keep` and `permanent_every` tokens say which stay (see `Retention`), `verified` which older ones are known to be good.
    `identity` says whose they are, such as {"data": fingerprint}; `restore` rejects those that differ from its own.
    """

    def __init__(
        self,
        run: Path,
        world: World = ALONE,
        *,
        keep: int = 2,
        permanent_every: int | None = None,
        identity: Mapping[str, str] | None = None,
        verified: Iterable[Path] = (),
    ) -> None:
        self.run, self.world, self.identity = run, world, dict(identity or {})
        self._retention = Retention(run, keep, permanent_every, verified)
        self._copies = {kind: HostCopy() for kind in KINDS}
        self._under_way: _UnderWay | None = None
        if world.leads:
            folders.sweep(run)

    @property
    def busy(self) -> bool:
        """Whether a save is under way: the same answer on every rank. What falls due meanwhile is best left out, as to wait would hold
        up training, and the next falls due soon."""
        return self._under_way is not None

    @property
    def done_here(self) -> bool:
        """Whether this rank has nothing left to write. Once all ranks say so, `publish` does not wait."""
        return self._under_way is None or self._under_way.thread is None or not self._under_way.thread.is_alive()

    def begin(
        self,
        step: int,
        tokens: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Any],
        *,
        hurry: bool = False,
    ) -> None:
        """Copies everything to host memory and returns; training may go on at once. A save that is still under way is finished first.

        `state` is whatever else the run needs to go on, as JSON. In a hurry, when the process is about to be ended, nothing is read
        back, and nothing older is deleted on its account. Raises CheckpointProblem on all ranks if it cannot be written.
        """
        self.finish()
        started = time.monotonic()
        share = share_of(model, optimizer, self.world)
        layout = {"ranks": self.world.size, "shards": share.shards}
        told = {"step": step, "tokens": tokens, "layout": layout, "optimizer": share.values, "state": dict(state)}
        total = int(self.world.total(share.bytes)[0])
        save = _UnderWay(json.loads(json.dumps(told)), folders.path_of(self.run, step), share, hurry, total, started)
        save.exists, failure = self.world.agree(self._prepare(save) if self.world.leads else None)
        if failure:
            raise _unwritten(save.final, failure)
        if not save.exists:
            try:
                ready = self._copy(share)
            except (RuntimeError, MemoryError) as error:
                save.failure = str(error)
            else:
                save.thread = threading.Thread(target=self._write, args=(save, ready), name="checkpoint", daemon=True)
                save.thread.start()
        self._under_way = save
        save.held_up = time.monotonic() - started

    def publish(self) -> Saved:
        """Waits for every rank's files, publishes the checkpoint and deletes what it supersedes.

        Raises CheckpointProblem on all ranks if any of them failed; what was written is removed, the last good one untouched.
        """
        save, self._under_way = self._under_way, None
        assert save is not None, "publish() without begin()"
        if save.thread is not None:
            save.thread.join()
        described = files.json_sha256(save.share.described)
        told = self.world.gather({"failure": save.failure, "files": save.files, "pieces": save.share.pieces, "described": described})
        failure, permanent, deleted = self.world.agree(self._conclude(save, told) if self.world.leads else None)
        if failure:
            raise _unwritten(save.final, failure)
        step, tokens, seconds = save.state["step"], save.state["tokens"], time.monotonic() - save.started
        return Saved(save.final, step, tokens, save.bytes, seconds, save.held_up, permanent, tuple(deleted))

    def finish(self) -> Saved | None:
        """Publishes what is under way, if anything, and waits until what was superseded is gone from the disk."""
        saved = self.publish() if self.busy else None
        self._retention.wait()
        return saved

    def close(self) -> None:
        """Gives up what is under way without a word to other ranks, as a run that fails has to. The next one sweeps up."""
        save, self._under_way = self._under_way, None
        if save is not None and save.thread is not None:
            save.thread.join()
            if self.world.size == 1:
                shutil.rmtree(folders.temporary(save.final), ignore_errors=True)

    # --- on every rank ---------------------------------------------------------------------------------------------------------

    def _copy(self, share: Share) -> torch.cuda.Event | None:
        """Copies to host memory; from a GPU the copies are queued before the next step's work, and the event says when they are done."""
        for kind, tensors in share.tensors.items():
            self._copies[kind].take(tensors)
        if not any(tensor.is_cuda for tensors in share.tensors.values() for tensor in tensors.values()):
            return None
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record()
        return ready

    def _write(self, save: _UnderWay, ready: torch.cuda.Event | None) -> None:
        """The thread: writes this rank's files and reads them back; on the leading rank it looks at older ones that are to count."""
        try:
            if ready is not None:
                ready.synchronize()
            there = folders.temporary(save.final)
            there.mkdir(parents=True, exist_ok=True)  # a shared disk may not show at once what another rank made
            rank, ranks = self.world.rank, self.world.size
            copies = {file_name(kind, rank, ranks): copy for kind, copy in self._copies.items() if save.share.tensors[kind]}
            with ThreadPoolExecutor(2 * len(copies)) as pool:
                digests = {name: pool.submit(copy.sha256) for name, copy in copies.items()}
                for writing in [pool.submit(copy.write, there / name) for name, copy in copies.items()]:
                    writing.result()
                save.files = {name: {"bytes": len(copy), "sha256": digests[name].result()} for name, copy in copies.items()}
            if not save.hurry and (wrong := _read_back(there, save.files)):
                raise OSError("; ".join(wrong))
            if self.world.leads:
                self._retention.look_at_older(save.final, counts=not save.hurry)
        except Exception as error:  # whatever it is, it is told where training hears it
            save.failure = str(error) or type(error).__name__

    # --- on the leading rank ---------------------------------------------------------------------------------------------------

    def _prepare(self, save: _UnderWay) -> tuple[bool, str | None]:
        """Makes the temporary folder. Returns whether the same checkpoint is there already, whole, and what hinders."""
        there = folders.temporary(save.final)
        try:
            if save.final.exists() and not folders.problems(save.final):
                before = files.read_json(save.final / STATE)
                if all(before[key] == save.state[key] for key in ("tokens", "state")):
                    return True, None
            files.need_space(self.run, save.bytes + _OTHER_FILES)
            shutil.rmtree(there, ignore_errors=True)
            there.mkdir(parents=True)
            return False, None
        except (OSError, files.FileProblem) as error:
            return False, str(error)

    def _conclude(self, save: _UnderWay, told: list[dict[str, Any]]) -> tuple[str | None, bool, list[str]]:
        """Publishes and retires. Returns what failed, whether this one stays for ever, and which are deleted."""
        there = folders.temporary(save.final)
        try:
            permanent = folders.read_manifest(save.final)["permanent"] if save.exists else self._put_together(save, told, there)
        except (OSError, files.FileProblem) as error:
            shutil.rmtree(there, ignore_errors=True)
            return str(error), False, []
        self._retention.trust(save.final, save.exists or not save.hurry)
        try:
            return None, permanent, self._retention.retire(save.final)
        except OSError:  # what cannot be deleted stays; the new one is there
            return None, permanent, []

    def _put_together(self, save: _UnderWay, told: list[dict[str, Any]], there: Path) -> bool:
        """Adds index, state and manifest to the ranks' files and publishes the folder. Returns whether it is to stay for ever."""
        which = [f"rank {rank}: " if self.world.size > 1 else "" for rank in range(len(told))]
        if failures := [which[rank] + part["failure"] for rank, part in enumerate(told) if part["failure"]]:
            raise CheckpointProblem("; ".join(failures))
        if any(part["described"] != told[0]["described"] for part in told):
            raise CheckpointProblem("the ranks do not hold the same tensors")
        rows = {name: row for part in told for name, row in part["files"].items()}
        if unseen := [name for name in rows if not (there / name).is_file()]:
            raise CheckpointProblem(f"{unseen[0]}: rank 0 does not see it; the run's folder has to be on a disk that all ranks share")
        (there / INDEX).write_text(json.dumps(index(save.share.described, [part["pieces"] for part in told])), encoding="utf-8")
        files.write_json(there / STATE, save.state)
        rows |= files.fingerprints(there, [INDEX, STATE])
        step, tokens = save.state["step"], save.state["tokens"]
        permanent = self._retention.is_permanent(tokens)
        folders.write_manifest(there, save.final, rows, step=step, tokens=tokens, permanent=permanent, identity=self.identity)
        folders.publish(there, save.final)
        return permanent


def save(
    run: Path,
    *,
    step: int,
    tokens: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    keep: int = 2,
    world: World = ALONE,
) -> Path:
    """Writes the checkpoint of `step` steps done, waits until it is published, and returns its folder. See `Saver`."""
    saver = Saver(run, world, keep=keep)
    saver.begin(step, tokens, model, optimizer, state)
    saved = saver.finish()
    assert saved is not None
    return saved.path


def _read_back(there: Path, rows: Mapping[str, Any]) -> list[str]:
    """What the disk did not keep as it was told."""
    if hasattr(os, "posix_fadvise"):  # or else the system answers from memory
        for name in rows:
            with open(there / name, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return files.mismatches(there, dict(rows))


def _unwritten(final: Path, why: str) -> CheckpointProblem:
    return CheckpointProblem(f"{final}: could not be written ({why}); the last good checkpoint is untouched")

"""Which checkpoints of a run stay: the newest that are verified, and for ever one for every so many tokens."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from daybreak.checkpoint import folder as folders
from daybreak.checkpoint.folder import CheckpointProblem


class Retention:
    """The newest `keep` verified ones stay (never fewer than two: one might not survive its disk), and for ever the first at or after
    each multiple of `permanent_every` tokens.

    A checkpoint counts only if `trust` vouched for it, as it was just restored from or read back from the disk, or if it verifies now.
    """

    def __init__(self, run: Path, keep: int, permanent_every: int | None, verified: Iterable[Path]) -> None:
        self.run, self.keep, self.permanent_every = run, max(2, keep), permanent_every
        self._verified = {path.name: True for path in verified}
        self._removing: threading.Thread | None = None

    def trust(self, folder: Path, verified: bool = True) -> None:
        """Remembers whether a checkpoint counts."""
        self._verified[folder.name] = verified

    def look_at_older(self, than: Path, counts: bool) -> None:
        """Verifies as many of the older ones as are needed beside one that counts or not, where that is not known yet. Takes its time."""
        wanted = self.keep - counts
        for older in reversed([folder for folder in folders.found(self.run) if folder < than]):
            if wanted == 0:
                return
            if older.name not in self._verified:
                self.trust(older, not folders.problems(older))
            wanted -= self._verified[older.name]

    def is_permanent(self, tokens: int) -> bool:
        """Whether one saved now would be the first since a multiple of `permanent_every`."""
        if self.permanent_every is None:
            return False
        manifests = [manifest for folder in folders.found(self.run) if (manifest := _manifest(folder)) is not None]
        last = max((told["tokens"] for told in manifests if told["permanent"] and told["tokens"] < tokens), default=0)
        return bool(tokens // self.permanent_every > last // self.permanent_every)

    def retire(self, newest: Path) -> list[str]:
        """Un-publishes what `newest` supersedes and returns the names; a thread removes it, as that may take a while.

        Those after `newest` are damaged, or a run would have gone on from them: they do not count, and are left for who wants to look.
        """
        older = [folder for folder in folders.found(self.run) if folder <= newest]
        counting = [folder for folder in older if self._verified.get(folder.name)]
        if len(counting) < self.keep:
            return []
        gone = [folder for folder in older[: older.index(counting[-self.keep])] if not (_manifest(folder) or {}).get("permanent")]
        left = [folders.unpublish(folder) for folder in gone]
        self.wait()
        self._removing = threading.Thread(target=_remove, args=(left,), name="checkpoint-removal", daemon=True)
        self._removing.start()
        return [folder.name for folder in gone]

    def wait(self) -> None:
        """Until everything that was retired is gone."""
        if self._removing is not None:
            self._removing.join()


def _remove(left: list[Path]) -> None:
    for path in left:
        folders.remove(path)


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        return folders.read_manifest(folder)
    except CheckpointProblem:
        return None

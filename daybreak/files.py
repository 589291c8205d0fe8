"""Files that are whole or absent: atomic writes, checksums, free space, pinned downloads.

Everything the package leaves on disk goes through here, so that a crash, a full disk or a kill at any moment
leaves either the old file or the new one, never a part of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_PROCESS = os.urandom(4).hex()
"""Beside its number, which another machine that writes to the same disk may have given too."""


class FileProblem(ValueError):
    """A file or folder that is missing, unreadable, damaged or of another kind; the message names it and the way out."""


class Held(FileProblem):
    """A lock that another process holds."""

    def __init__(self, path: Path, process: int | None) -> None:
        super().__init__(f"{path}: is held by {f'process {process}' if process else 'another process'}; wait for it or stop it")
        self.process = process
        """Its number, or None where it has not told it."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Opens a temporary neighbour of `path` for writing; on success it is fsynced and renamed onto `path`.

    If the block raises, the temporary file is removed and `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{_PROCESS}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` to `path`, whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file. Raises FileProblem if it is missing, unreadable or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileProblem(f"{path}: wanted a JSON file, found nothing there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FileProblem(f"{path}: cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        raise FileProblem(f"{path}: wanted JSON, found something else at line {error.lineno} ({error.msg})") from None


def sync_folder(folder: Path) -> None:
    """Flushes a folder's entries to the disk, so that a rename in it survives a power cut. A no-op where unsupported."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def publish_folder(temporary: Path, final: Path) -> None:
    """Makes a finished temporary folder visible under its final name, in one step.

    Every file in it is fsynced first. Raises FileProblem if `final` exists: a published folder is never changed.
    """
    if final.exists():
        raise FileProblem(f"{final}: exists already; a published folder is never overwritten")
    for file in sorted(p for p in temporary.rglob("*") if p.is_file()):
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
    sync_folder(temporary)
    temporary.rename(final)
    sync_folder(final.parent)


@contextlib.contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A temporary folder to write, which then takes the place of `final`, or is gone if anything is raised within."""
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(final, ignore_errors=True)
        publish_folder(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Makes the file `path`, its folder too, and holds it for this process; afterwards the file is gone.

    The system lets go of it when the process ends, however it ends: a file that a killed process left is no obstacle. Raises Held if
    it is held already. Where there are no such locks, on Windows and on some network disks, nothing is refused.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    with _hold(path) as file:
        try:
            yield
        finally:
            if _is_at(path, file):
                path.unlink()


def _hold(path: Path) -> IO[str]:
    import fcntl  # not on Windows

    while True:
        file = open(path, "a+", encoding="ascii", errors="replace")  # noqa: SIM115 - open for as long as the lock is held
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                process = file.read(20)
            raise Held(path, int(process) if process.isdecimal() else None) from None
        except OSError:  # a file system without locks
            return file
        if _is_at(path, file):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            return file
        file.close()  # removed by its last holder after it was opened here: a lock that nobody else would see


def _is_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def json_sha256(value: Any) -> str:
    """The SHA-256 of a JSON value whatever the order of its keys: how a manifest vouches for itself."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def fingerprints(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """For each named file of a folder its size in bytes and its sha256: the rows of a manifest."""
    return {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names}


def mismatches(folder: Path, rows: dict[str, dict[str, Any]]) -> list[str]:
    """What differs between a folder and its manifest's rows, one sentence per file; an empty list means all is well."""
    wrong = []
    for name, row in rows.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name}: missing")
        elif path.stat().st_size != row["bytes"]:
            wrong.append(f"{name}: {path.stat().st_size:,} bytes, the manifest says {row['bytes']:,}")
        elif sha256(path) != row["sha256"]:
            wrong.append(f"{name}: its bytes changed (sha256 differs from the manifest)")
    return wrong


def need_space(folder: Path, size: int) -> None:
    """Raises FileProblem if the disk that holds `folder` has less than `size` bytes free."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < size:
        raise FileProblem(
            f"{folder}: needs {size / 1e6:,.0f} MB, the disk has {free / 1e6:,.0f} MB free; free some or choose another folder"
        )


def cache_folder() -> Path:
    """Where downloads are kept: $DAYBREAK_CACHE, else $XDG_CACHE_HOME/daybreak, else ~/.cache/daybreak."""
    if named := os.environ.get("DAYBREAK_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "daybreak"


def download(url: str, path: Path, digest: str, timeout: float = 30.0) -> None:
    """Downloads `url` to `path` under a temporary name and publishes it only if its sha256 is `digest`.

    Raises FileProblem if the network or the content is not what it should be.
    """
    import urllib.request  # takes longer than all the rest of this file

    try:
        with urllib.request.urlopen(url, timeout=timeout) as response, replacing(path) as file:
            shutil.copyfileobj(response, file)
            file.flush()
            came = sha256(Path(file.name))
            if came != digest:
                raise FileProblem(f"{url}: wanted sha256 {digest}, came {came}; nothing was kept")
    except OSError as error:
        raise FileProblem(f"{url}: could not be downloaded ({error})") from None

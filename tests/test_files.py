"""Files are whole or absent: the old one stays on any failure, a published folder never changes, a download is pinned."""

from __future__ import annotations

import builtins
import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daybreak import files
from daybreak.files import FileProblem


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    files.write_json(path, {"é": [1, None]})
    assert files.read_json(path) == {"é": [1, None]}
    assert "é" in path.read_text(encoding="utf-8")
    files.write_text(path, "x")
    assert tree(tmp_path) == {"new/folder/a.json": b"x"}


@pytest.mark.parametrize("failure", [RuntimeError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_failure_while_writing_leaves_the_old_file(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(failure)), files.replacing(path) as file:  # noqa: PT012
        file.write(b"new, but")
        assert path.read_text() == "old"
        raise failure
    assert tree(tmp_path) == {"a.txt": b"old"}


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    class Full(io.FileIO):
        def write(self, content: Any) -> int:
            super().write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.bin"
    if there:
        path.write_bytes(b"old")
    monkeypatch.setattr(builtins, "open", lambda name, mode: Full(name, mode))
    with pytest.raises(OSError, match="No space left"):
        files.write_bytes(path, b"new content")
    monkeypatch.undo()
    assert tree(tmp_path) == ({"a.bin": b"old"} if there else {})


def test_a_file_that_cannot_be_flushed_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        files.write_text(path, "new")
    assert tree(tmp_path) == {"a.txt": b"old"}


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        files.write_text(tmp_path / "a", "x")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "a.json: wanted JSON, found something else at line 1"),
        (b"[1,\n2,,]", "at line 2"),
        (b"", "wanted JSON"),
        (b"\xff", "a.json: cannot be read"),
        (None, "a.json: wanted a JSON file, found nothing there"),
        ("folder", "a.json: cannot be read"),
    ],
)
def test_what_is_no_json_is_named(tmp_path: Path, content: bytes | str | None, told: str) -> None:
    path = tmp_path / "a.json"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(FileProblem) as caught:
        files.read_json(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_folder_is_published_once(tmp_path: Path) -> None:
    draft, final = tmp_path / ".draft", tmp_path / "final"
    (draft / "deep").mkdir(parents=True)
    (draft / "deep" / "a").write_text("1")
    files.publish_folder(draft, final)
    assert tree(tmp_path) == {"final/deep/a": b"1"}
    assert not draft.exists()
    (draft / "deep").mkdir(parents=True)
    with pytest.raises(FileProblem, match="final: exists already; a published folder is never overwritten"):
        files.publish_folder(draft, final)
    assert draft.is_dir()
    assert tree(final) == {"deep/a": b"1"}


def test_a_folder_that_cannot_be_flushed_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft, final = tmp_path / ".draft", tmp_path / "final"
    draft.mkdir()
    (draft / "a").write_text("1")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        files.publish_folder(draft, final)
    assert not final.exists()


def test_a_manifest_finds_every_change(tmp_path: Path) -> None:
    for name in ("same", "longer", "flipped", "gone"):
        (tmp_path / name).write_bytes(b"12345")
    rows = files.fingerprints(tmp_path, ["same", "longer", "flipped", "gone"])
    assert rows["same"] == {"bytes": 5, "sha256": hashlib.sha256(b"12345").hexdigest()}
    assert files.mismatches(tmp_path, rows) == []
    (tmp_path / "longer").write_bytes(b"123456")
    (tmp_path / "flipped").write_bytes(b"12344")
    (tmp_path / "gone").unlink()
    assert files.mismatches(tmp_path, rows) == [
        "longer: 6 bytes, the manifest says 5",
        "flipped: its bytes changed (sha256 differs from the manifest)",
        "gone: missing",
    ]


def test_a_large_file_is_read_in_pieces(tmp_path: Path) -> None:
    content = os.urandom((1 << 20) + 17)
    (tmp_path / "large").write_bytes(content)
    assert files.sha256(tmp_path / "large") == hashlib.sha256(content).hexdigest()


HOLDING = """
import sys
from pathlib import Path
from daybreak.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
def test_a_lock_is_held_by_one_process_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".lock"
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])}
    command = [sys.executable, "-c", HOLDING, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"held"
        with pytest.raises(files.Held, match=f"is held by process {process.pid}; ") as caught, files.locked(path):
            pass
        assert caught.value.process == process.pid
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.read_text() == str(process.pid)  # it is left, and no obstacle
    with files.locked(path):
        assert path.read_text() == str(os.getpid())
        with pytest.raises(files.Held), files.locked(path):
            pass
    assert not path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
def test_a_lock_that_was_removed_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    path, take, taken = tmp_path / ".lock", fcntl.flock, []

    def slow(file: Any, how: int) -> None:
        if not taken:
            path.unlink()  # as its last holder does between our opening and our taking it
        taken.append(how)
        take(file, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    with files.locked(path):
        assert len(taken) == 2
        with pytest.raises(files.Held), files.locked(path):
            pass
        path.unlink()
        path.write_text("of another holder")
    assert path.read_text() == "of another holder"


@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
def test_a_disk_without_locks_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with files.locked(tmp_path / ".lock"), files.locked(tmp_path / ".lock"):
        pass


def test_space_is_asked_of_the_disk_that_will_hold_the_folder(tmp_path: Path) -> None:
    files.need_space(tmp_path / "not" / "yet" / "there", 1)
    with pytest.raises(FileProblem, match=r"there: needs [\d,]+ MB, the disk has [\d,]+ MB free; free some or choose another folder"):
        files.need_space(tmp_path / "not" / "yet" / "there", 1 << 60)


def test_a_download_is_kept_only_if_it_is_the_pinned_one(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "cache" / "kept"
    source.write_bytes(b"published")
    digest = hashlib.sha256(b"published").hexdigest()
    files.download(source.as_uri(), target, digest)
    assert target.read_bytes() == b"published"
    with pytest.raises(FileProblem, match=rf"source: wanted sha256 {'0' * 64}, came {digest}; nothing was kept"):
        files.download(source.as_uri(), target.with_name("other"), "0" * 64)
    assert tree(tmp_path / "cache") == {"kept": b"published"}
    source.write_bytes(b"tampered")
    with pytest.raises(FileProblem, match="wanted sha256"):
        files.download(source.as_uri(), target, digest)
    assert tree(tmp_path / "cache") == {"kept": b"published"}


def test_a_download_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match=r"file:.*nothing: could not be downloaded \("):
        files.download((tmp_path / "nothing").as_uri(), tmp_path / "kept", "0" * 64)
    assert tree(tmp_path) == {}


def test_where_downloads_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DAYBREAK_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert files.cache_folder() == tmp_path
    monkeypatch.delenv("DAYBREAK_CACHE")
    assert files.cache_folder() == Path("/xdg/daybreak")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/someone")
    assert files.cache_folder() == Path("/someone/.cache/daybreak")

"""The official files of the tasks: where they are published, and the checksum that says it is them.

    path = fetch("hellaswag")       # downloaded once, then found in the cache

A checksum is only here if somebody had published it before us; each row names who. A file that has none, or a machine without a
network, takes a folder of one's own instead (`daybreak eval --task-files DIR`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from daybreak import config, files


@dataclass(frozen=True)
class Official:
    """One file as its authors published it."""

    file: str
    """Its name in the cache."""
    urls: tuple[str, ...]
    """Where it is, or the archive that holds it; the first that answers with the right bytes is taken."""
    sha256: str
    member: str | None = None
    """Its name within a zip archive; None where the URL is the file itself."""
    archive_sha256: str = ""


OFFICIAL: dict[str, Official] = {
    # rowanz/hellaswag, MIT: 10,042 items, 12,246,618 bytes. Checksum: tensorflow/datasets, url_checksums/hellaswag.txt.
    "hellaswag": Official(
        "hellaswag_val.jsonl",
        ("https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl",),
        "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
    ),
    # OpenAI's own form of LAMBADA's test set, which the harness takes too: 5,153 items, 1,819,752 bytes. Checksum: the card of
    # EleutherAI/lambada_openai; lm-evaluation-harness, lm_eval/tasks/lambada.py at its first releases; the copy in cybertronai/bflm has it.
    "lambada": Official(
        "lambada_test.jsonl",
        (
            "https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl",
            "https://huggingface.co/datasets/EleutherAI/lambada_openai/resolve/main/data/lambada_test.jsonl",
        ),
        "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",
    ),
    # WikiText-2, raw (CC BY-SA): the test text, 1,290,590 bytes; WikiText-103 has the same one. Its authors' address is gone. The archive's
    # checksum: huggingface/datasets, datasets/wikitext/dataset_infos.json; that of the text as users of llama.cpp, whose
    # scripts/get-wikitext-2.sh fetches this archive, wrote it down beside their results.
    "wikitext2": Official(
        "wiki.test.raw",
        ("https://huggingface.co/datasets/ggml-org/ci/resolve/main/wikitext-2-raw-v1.zip",),
        "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
        member="wikitext-2-raw/wiki.test.raw",
        archive_sha256="ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11",
    ),
}


def fetch(name: str, official: Mapping[str, Official] = OFFICIAL) -> Path:
    """The official file of a task, from the cache or else downloaded into it.

    Raises FileProblem, with the way out, for a task whose file is not known here and where no address gives the right bytes.
    """
    if name not in official:
        hint = f"{config.closest(name, official)} There are" if config.closest(name, official) else "; there are"
        raise files.FileProblem(
            f"{name}: no official file is known here{hint} {', '.join(official)}; or name your own with --task-files DIR"
        )
    row = official[name]
    path = files.cache_folder() / "tasks" / row.file
    if path.is_file() and files.sha256(path) == row.sha256:
        return path
    problem = ""
    for url in row.urls:
        try:
            _download(url, row, path)
            return path
        except files.FileProblem as error:
            problem = str(error)
    raise files.FileProblem(f"{problem}; or put {row.file} into a folder and name it with --task-files DIR")


def _download(url: str, row: Official, path: Path) -> None:
    if row.member is None:
        files.download(url, path, row.sha256)
        return
    archive = path.with_name(f".{row.file}.{os.getpid()}.zip")
    try:
        files.download(url, archive, row.archive_sha256)
        _unpack(archive, row.member, path, row.sha256)
    finally:
        with contextlib.suppress(FileNotFoundError):
            archive.unlink()


def _unpack(archive: Path, member: str, path: Path, digest: str) -> None:
    """Takes one member out of a zip archive, under our own name, only if its sha256 is `digest`. Raises FileProblem if it is not there."""
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(member) as source, files.replacing(path) as file:
            shutil.copyfileobj(source, file)
            file.flush()
            if (came := files.sha256(Path(file.name))) != digest:
                raise files.FileProblem(f"{member}: wanted sha256 {digest}, came {came}; nothing was kept")
    except (KeyError, zipfile.BadZipFile) as error:
        raise files.FileProblem(f"{member}: is not in the archive ({error})") from None

"""Byte-level BPE vocabularies as ranks: `{token bytes: id}`, where a lower id merges earlier; and where GPT-2's are found.

A rank says all: the merges of a vocabulary follow from it (`merges_of`), so the rank file of 836 kB is enough for tiktoken,
for Hugging Face's format and for a test of equality. Text files write a byte as a visible character (`CHARACTER_OF_BYTE`, from GPT-2).
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from daybreak import files

Ranks = dict[bytes, int]

END_OF_TEXT = "<|endoftext|>"

RANK_FILE_URL = "https://openaipublic.blob.core.windows.net/encodings/r50k_base.tiktoken"
MERGES_FILE_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe"
RANK_FILE_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
MERGES_FILE_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
"""Both as pinned by tiktoken (tiktoken_ext/openai_public.py) for the files that OpenAI published."""

_PRINTABLE = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
BYTES_IN_ORDER = bytes(_PRINTABLE + [b for b in range(256) if b not in _PRINTABLE])
"""GPT-2's order of the 256 single bytes, which are its first ids: the printable ones of Latin-1, then the rest."""

CHARACTER_OF_BYTE = {b: chr(b) if b in _PRINTABLE else chr(256 + i - len(_PRINTABLE)) for i, b in enumerate(BYTES_IN_ORDER)}
BYTE_OF_CHARACTER = {character: b for b, character in CHARACTER_OF_BYTE.items()}
_BYTE_OF_CODE = defaultdict(lambda: 256, {ord(character): b for character, b in BYTE_OF_CHARACTER.items()})  # 256 is none


class TokenizerProblem(ValueError):
    """A tokenizer that cannot be found, read or represented, or a text or an id that it cannot take; one line with the way out."""


def visible(token: bytes) -> str:
    """The bytes of a token as text files write them, one visible character per byte: b" the" is "Ġthe"."""
    return "".join(CHARACTER_OF_BYTE[b] for b in token)


def from_visible(token: str) -> bytes:
    """The inverse of `visible`. Raises TokenizerProblem for a character that stands for no byte."""
    try:
        return token.translate(_BYTE_OF_CODE).encode("latin-1")
    except UnicodeEncodeError:
        wrong = next(character for character in token if character not in BYTE_OF_CHARACTER)
        raise TokenizerProblem(f"token {token!r}: {wrong!r} stands for no byte; this vocabulary is not a byte-level one") from None


def parse_rank_file(content: bytes) -> Ranks:
    """Reads tiktoken's form: per line the token in base64, a space, its rank."""
    try:
        lines = (line.split() for line in content.splitlines() if line)
        return {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except ValueError as error:
        raise TokenizerProblem(f"wanted lines of a base64 token and a rank, came something else ({error})") from None


def rank_file(ranks: Ranks) -> bytes:
    """Writes tiktoken's form, in the order of ranks."""
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in sorted(ranks.items(), key=lambda item: item[1]))


def parse_merges(content: bytes) -> list[tuple[str, str]]:
    """Reads vocab.bpe or merges.txt: per line the two visible halves of a merge, the earliest first; a #version line is skipped."""
    try:
        lines = [line.rstrip("\r").split(" ") for line in content.decode("utf-8").split("\n") if line and not line.startswith("#version")]
        return [(left, right) for left, right in lines]
    except ValueError as error:
        raise TokenizerProblem(f"wanted lines of two tokens to merge, came something else ({error})") from None


def merges_file(merges: list[tuple[str, str]]) -> bytes:
    """Writes vocab.bpe, as OpenAI did for GPT-2."""
    return ("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges)).encode("utf-8")


def ranks_of_merges(merges: list[tuple[str, str]]) -> Ranks:
    """GPT-2's numbering: the 256 bytes in GPT-2's order, then one id per merge."""
    ranks = {bytes([b]): i for i, b in enumerate(BYTES_IN_ORDER)}
    for left, right in merges:
        ranks[from_visible(left + right)] = len(ranks)
    return ranks


def merges_of(ranks: Ranks) -> list[tuple[bytes, bytes]]:
    """The merges that made a vocabulary, the earliest first: each token is split by BPE with only the ranks below its own.

    Raises TokenizerProblem for a token that two earlier ones do not make.
    """
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        pairs = [ranks.get(token[i : i + 2], rank) for i in range(len(token) - 1)]  # the rank of each part with its right neighbour
        while len(parts) > 2 and (lowest := min(pairs)) < rank:
            at = pairs.index(lowest)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
            del pairs[at]
            if at > 0:
                pairs[at - 1] = ranks.get(parts[at - 1] + parts[at], rank)
            if at < len(pairs):
                pairs[at] = ranks.get(parts[at] + parts[at + 1], rank)
        if len(parts) != 2:
            raise TokenizerProblem(f"token {visible(token)!r} (id {rank}): earlier tokens do not merge into it; this vocabulary is not BPE")
        merges.append((parts[0], parts[1]))
    return merges


def is_gpt2(ranks: Ranks) -> bool:
    """Whether these are GPT-2's ranks: written as a rank file they have its pinned sha256."""
    return len(ranks) == 50256 and hashlib.sha256(rank_file(ranks)).hexdigest() == RANK_FILE_SHA256


GPT2_FILES: dict[str, Callable[[bytes], Ranks]] = {
    RANK_FILE_SHA256: parse_rank_file,
    MERGES_FILE_SHA256: lambda content: ranks_of_merges(parse_merges(content)),
}
"""The files that hold GPT-2's vocabulary, by their sha256, and how each is read."""

GPT2_FILE_NAMES = ("gpt2.tiktoken", "r50k_base.tiktoken", "vocab.bpe")


def gpt2_ranks() -> Ranks:
    """GPT-2's 50,256 ranks, from the first place that has them; every file must have its pinned sha256.

    In order: $DAYBREAK_GPT2_VOCAB (gpt2.tiktoken or vocab.bpe, or a folder with one), our cache folder, tiktoken's cache folder,
    a download into our cache. Raises TokenizerProblem if all fail, or if a file that is there is not the published one.
    """
    if named := os.environ.get("DAYBREAK_GPT2_VOCAB"):
        return _read_pinned(_named_file(Path(named)))
    ours = files.cache_folder()
    places = [ours / name for name in GPT2_FILE_NAMES] + _tiktoken_cache()
    for path in places:
        if path.is_file():
            return _read_pinned(path)
    try:
        files.download(RANK_FILE_URL, ours / GPT2_FILE_NAMES[0], RANK_FILE_SHA256)
    except files.FileProblem as error:
        looked = ", ".join(sorted({str(path.parent) for path in places}))
        raise TokenizerProblem(
            f"tokenizer gpt2: its vocabulary is in neither of {looked}, and {error}; "
            "set DAYBREAK_GPT2_VOCAB to a gpt2.tiktoken or vocab.bpe file, or learn a vocabulary from the text (--tokenizer bpe)"
        ) from None
    return _read_pinned(ours / GPT2_FILE_NAMES[0])


def _named_file(path: Path) -> Path:
    """The file that $DAYBREAK_GPT2_VOCAB means. Raises TokenizerProblem if there is none."""
    if path.is_file():
        return path
    for name in GPT2_FILE_NAMES:
        if (path / name).is_file():
            return path / name
    raise TokenizerProblem(
        f"DAYBREAK_GPT2_VOCAB={path}: wanted gpt2.tiktoken, vocab.bpe or a folder with one, found none; correct it or unset it"
    )


def _tiktoken_cache() -> list[Path]:
    """Where tiktoken itself keeps the two files (tiktoken/load.py, `read_file_cached`); empty if its cache is switched off."""
    default = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", default))
    urls = (RANK_FILE_URL, MERGES_FILE_URL) if folder else ()
    return [Path(folder) / hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest() for url in urls]


def _read_pinned(path: Path) -> Ranks:
    """Reads a file of GPT-2's vocabulary. Raises TokenizerProblem unless it is one of the published files, byte for byte."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TokenizerProblem(f"{path}: cannot be read ({error})") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest not in GPT2_FILES:
        wanted = " or ".join(f"{pin[:12]}..." for pin in GPT2_FILES)
        raise TokenizerProblem(
            f"{path}: not GPT-2's vocabulary as published: wanted sha256 {wanted} (gpt2.tiktoken or vocab.bpe), came {digest[:12]}...; "
            "remove the file or get it anew"
        )
    return GPT2_FILES[digest](content)

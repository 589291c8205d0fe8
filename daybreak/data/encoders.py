"""The two ways from text to ids, byte pairs by tiktoken and single characters, each with the tokenizer.json that says the same.

Legend: T ids of one text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt
import tiktoken

from daybreak.data.ranks import END_OF_TEXT, Ranks, TokenizerProblem, merges_of, visible

PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
"""How GPT-2 cuts a text into words before BPE, in the possessive form of tiktoken 0.14 (tiktoken_ext/openai_public.py).
The cuts are the same."""

ONE_BY_ONE = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
"""Hugging Face's pre-tokenizer that makes every character a word, line ends too."""


class Encoder(Protocol):
    """What makes a tokenizer one or another kind: how it encodes, and how it is written down."""

    def __call__(self, text: str) -> npt.NDArray[np.uint32]:
        """(T,) ids of a text. Raises UnicodeEncodeError for a lone surrogate, TokenizerProblem for what it cannot encode."""

    def document(self) -> dict[str, Any]:
        """The content of tokenizer.json."""


@final
class BytePairs:
    """The encoder of gpt2, bpe and bytes: GPT-2's splitting into words, then byte-level BPE by rank, in tiktoken."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._encoding = tiktoken.Encoding(
            "daybreak", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: len(ranks)}, explicit_n_vocab=len(ranks) + 1
        )

    def __call__(self, text: str) -> npt.NDArray[np.uint32]:
        try:
            return self._encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:
            raise
        except ValueError:  # the stack of `\s+(?!\S)` overflows on a run of a million spaces
            parts = [self._encoding.encode_to_numpy(part, disallowed_special=()) for part in cut_long_spaces(text)]
            return np.concatenate(parts)

    def document(self) -> dict[str, Any]:
        vocab = {visible(token): rank for token, rank in sorted(self._ranks.items(), key=lambda item: item[1])}
        merges = [f"{visible(left)} {visible(right)}" for left, right in merges_of(self._ranks)]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        model = {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {**vocab, END_OF_TEXT: len(vocab)},
            "merges": merges,
        }
        return _document(len(vocab), pre_tokenizer=byte_level, decoder=byte_level, model=model)


@final
class Characters:
    """The encoder of chars: one id per Unicode character."""

    def __init__(self, characters: list[str]) -> None:
        """`characters`: by id."""
        self._characters = characters
        points = np.array([ord(character) for character in characters], dtype=np.int64)
        self._id_of = np.full(int(points.max(initial=0)) + 2, -1, dtype=np.int64)  # by code point; the last stands for all beyond
        self._id_of[points] = np.arange(len(points))

    def __call__(self, text: str) -> npt.NDArray[np.uint32]:
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        ids = self._id_of[np.minimum(points, len(self._id_of) - 1)]
        if ids.size and ids.min() < 0:
            at = int(np.argmax(ids < 0))
            raise TokenizerProblem(
                f"tokenizer chars: wanted one of its {len(self._characters):,} characters, came {_name(text[at])} at position {at:,}; "
                "learn the tokenizer from a text that has it, or use bytes or bpe, which take every text"
            )
        return ids.astype(np.uint32)

    def document(self) -> dict[str, Any]:
        vocab = {character: i for i, character in enumerate([*self._characters, END_OF_TEXT])}
        model = {
            "type": "WordLevel",
            "vocab": vocab,
            "unk_token": "<unk>",
        }  # not in the vocabulary, so that an unknown character is an error
        return _document(len(vocab) - 1, pre_tokenizer=ONE_BY_ONE, decoder={"type": "Fuse"}, model=model)


def _document(eot: int, **parts: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json: what all kinds share around their `pre_tokenizer`, `decoder` and `model`."""
    added = {
        "id": eot,
        "content": END_OF_TEXT,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [added], "normalizer": None}
    return {**head, "pre_tokenizer": parts["pre_tokenizer"], "post_processor": None, "decoder": parts["decoder"], "model": parts["model"]}


def _name(character: str) -> str:
    return f"{character!r} ({unicodedata.name(character, 'unnamed')}, U+{ord(character):04X})"


_SPACES = re.compile(r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")  # White_Space of Unicode, which is PATTERN's \s


def cut_long_spaces(text: str, longest: int = 10_000) -> Iterator[str]:
    """Cuts a text in every run of white space longer than `longest`, before its last character; PATTERN cuts the parts as the whole.

    PATTERN itself takes all but the last character of a run as one word, and a run at the end of a text as one word.
    """
    start = 0
    for run in _SPACES.finditer(text):
        if run.end() - run.start() > longest and run.end() < len(text):
            yield text[start : run.end() - 1]
            start = run.end() - 1
    yield text[start:]

"""Tokenizers: text to ids and back, behind one small class, with one form on disk that Hugging Face's programs open as it is.

    tokenizer = load_tokenizer("gpt2")                      # or "bytes", or a folder that `save` wrote, or one of Hugging Face's
    tokenizer = train_bpe(texts, vocab_size=4096)           # byte-level BPE of one's own; train_chars(texts) for single characters
    ids = tokenizer.encode("The sun")                       # (T,) uint16, or uint32 beyond 65,536 ids
    tokenizer.decode(ids)                                   # "The sun"
    tokenizer.save(folder)                                  # transformers.AutoTokenizer.from_pretrained(folder) reads it

Every tokenizer has V ids, the last of which is the end of text, `<|endoftext|>`. Encoding never makes that id: in a text the
string is text. Byte-level BPE runs on tiktoken, built from the ranks alone, so that nothing reaches for the network behind our back.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast, final

import numpy as np
import numpy.typing as npt

from daybreak import files
from daybreak.data.encoders import ONE_BY_ONE, BytePairs, Characters, Encoder
from daybreak.data.ranks import (
    BYTES_IN_ORDER,
    END_OF_TEXT,
    MERGES_FILE_SHA256,
    Ranks,
    TokenizerProblem,
    from_visible,
    gpt2_ranks,
    is_gpt2,
    merges_file,
    merges_of,
    parse_merges,
    visible,
)
from daybreak.data.utf8 import Utf8Stream

__all__ = ["END_OF_TEXT", "Tokenizer", "TokenizerProblem", "Utf8Stream", "load_tokenizer", "train_bpe", "train_chars"]

LARGEST_TRAINING_TEXT = 1 << 31
"""Bytes. The `tokenizers` library counts pairs in 32 bits, so that no count can overflow below this size."""


@final
class Tokenizer:
    """Text to ids and back. Made by `load_tokenizer`, `train_bpe` and `train_chars`; the same interface for every kind.

    `name`: gpt2, bpe, bytes or chars. `vocab_size`: V, the end of text included. `eot`: its id, V - 1.
    """

    def __init__(self, name: str, pieces: list[bytes], encoder: Encoder) -> None:
        """`pieces`: the V - 1 tokens as UTF-8 bytes, by id."""
        self.name = name
        self.vocab_size = len(pieces) + 1
        self.eot = len(pieces)
        self._pieces = [*pieces, b""]
        self._encoder = encoder
        self._dtype = np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)

    def __repr__(self) -> str:
        return f"<Tokenizer {self.name}, {self.vocab_size:,} ids>"

    def encode(self, text: str) -> npt.NDArray[np.unsignedinteger[Any]]:
        """(T,) ids, uint16 if V <= 65,536, else uint32. Lone surrogates, which are no text, are encoded as U+FFFD.

        Raises TokenizerProblem only for `chars`, at a character that it never saw.
        """
        try:
            ids = self._encoder(text)
        except UnicodeEncodeError:
            ids = self._encoder(_without_surrogates(text))
        return ids.astype(self._dtype)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, the end of text left out; bytes that are no UTF-8 become U+FFFD. Raises TokenizerProblem for an unknown id."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids, exactly; the end of text has none. Raises TokenizerProblem for an unknown id."""
        ids = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise self._unknown_id(min(ids) if min(ids) < 0 else max(ids))
        return b"".join([self._pieces[i] for i in ids])

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id, maybe a part of a character (see `Utf8Stream`). Raises TokenizerProblem for an unknown id."""
        if not 0 <= token < self.vocab_size:
            raise self._unknown_id(token)
        return self._pieces[token]

    def byte_lengths(self) -> npt.NDArray[np.int64]:
        """(V,) the number of UTF-8 bytes that each id stands for, 0 for the end of text: what bits per byte divides by."""
        return np.array([len(piece) for piece in self._pieces], dtype=np.int64)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 of our tokenizer.json: equal if and only if the tokenizers are."""
        return hashlib.sha256(self._json()).hexdigest()

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json and the two small files beside it that `transformers.AutoTokenizer` wants, each whole or not at all."""
        special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
        if self.name != "chars":  # as GPT-2 has it, though no byte is unknown
            special["unk_token"] = END_OF_TEXT
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **special}
        files.write_json(folder / "tokenizer_config.json", config)
        files.write_json(folder / "special_tokens_map.json", special)
        files.write_bytes(folder / "tokenizer.json", self._json())

    def document(self) -> dict[str, Any]:
        """The content of tokenizer.json."""
        return self._encoder.document()

    def _json(self) -> bytes:
        return (json.dumps(self.document(), ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8")

    def _unknown_id(self, token: int) -> TokenizerProblem:
        return TokenizerProblem(
            f"tokenizer {self.name}: wanted ids from 0 to {self.eot}, came {token}; were the ids made with another tokenizer?"
        )


def _without_surrogates(text: str) -> str:
    """The text with pairs of surrogates joined to the character that they mean, and each lone one as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# --- reading -----------------------------------------------------------------------------------------------------------------


def load_tokenizer(name_or_folder: str | Path) -> Tokenizer:
    """The tokenizer of a name, gpt2 or bytes, or of a folder, or of a tokenizer.json; a name wins over a folder of that name.

    A folder holds tokenizer.json (ours or a byte-level BPE like GPT-2's from Hugging Face), or vocab.json and merges.txt, or encoder.json
    and vocab.bpe. Raises TokenizerProblem for an unknown name and for what this class cannot represent, FileProblem for a damaged file.
    """
    if name_or_folder == "gpt2":
        return _from_ranks(gpt2_ranks())
    if name_or_folder == "bytes":
        return _from_ranks({bytes([b]): b for b in range(256)})
    path = Path(name_or_folder)
    if path.is_file():
        return _from_document(files.read_json(path), path)
    if not path.is_dir():
        raise _unknown_name(str(name_or_folder))
    if (path / "tokenizer.json").is_file():
        return _from_document(files.read_json(path / "tokenizer.json"), path / "tokenizer.json")
    for vocab, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        if (path / vocab).is_file() and (path / merges).is_file():
            return _from_vocab(files.read_json(path / vocab), parse_merges((path / merges).read_bytes()), path)
    raise TokenizerProblem(
        f"{path}: wanted tokenizer.json, or vocab.json and merges.txt, or encoder.json and vocab.bpe; found none of them"
    )


def _unknown_name(name: str) -> TokenizerProblem:
    if name in ("bpe", "chars"):
        return TokenizerProblem(f"tokenizer {name}: is learned from a text; learn it with `daybreak tokenizer train`, then name its folder")
    near = difflib.get_close_matches(name, ["gpt2", "bytes"], n=1)
    hint = f"did you mean {near[0]}?" if near else "name gpt2, bytes or the folder of a tokenizer"
    return TokenizerProblem(f"tokenizer {name}: neither a name (gpt2, bytes) nor a folder that exists; {hint}")


def _from_ranks(ranks: Ranks) -> Tokenizer:
    """The tokenizer of ranks 0 to V - 2; its name follows from them."""
    pieces = sorted(ranks, key=ranks.__getitem__)
    plain = pieces == [bytes([b]) for b in range(256)]
    return Tokenizer("bytes" if plain else "gpt2" if is_gpt2(ranks) else "bpe", pieces, BytePairs(ranks))


def _from_vocab(vocab: dict[str, int], merges: list[tuple[str, str]], where: Path | str) -> Tokenizer:
    """The tokenizer of a vocabulary and merges in visible characters. Raises TokenizerProblem unless ranks alone say the same."""
    _check_ids(vocab, where)
    ranks = {from_visible(token): i for token, i in vocab.items() if token != END_OF_TEXT}
    if missing := [b for b in range(256) if bytes([b]) not in ranks]:
        raise TokenizerProblem(f"{where}: wanted all 256 bytes among the tokens, {len(missing)} are missing (0x{missing[0]:02x} first)")
    tokenizer = _from_ranks(ranks)
    if tokenizer.name == "gpt2":  # quicker than to derive them anew
        same = hashlib.sha256(merges_file(merges)).hexdigest() == MERGES_FILE_SHA256
    else:
        same = [(visible(left), visible(right)) for left, right in merges_of(ranks)] == merges
    if not same:
        raise TokenizerProblem(f"{where}: wanted merges in the order of their ids, as GPT-2 has them; these differ and cannot be used here")
    return tokenizer


def _from_document(document: Any, where: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json. Raises TokenizerProblem for every feature that our encoders do not have."""
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        kind = model.get("type") if isinstance(model, dict) else "none"
        raise TokenizerProblem(f"{where}: wanted a byte-level BPE model, came {kind}; it cannot be used here")
    vocab = {**model["vocab"]}
    added = [token.get("content") for token in document.get("added_tokens") or []]
    if set(added) - {END_OF_TEXT}:
        raise TokenizerProblem(f"{where}: wanted {END_OF_TEXT} as the only added token, came {', '.join(map(repr, added))}")
    vocab.update({token["content"]: token["id"] for token in document.get("added_tokens") or []})
    came = {
        "normalizer": document.get("normalizer"),
        "post_processor": (document.get("post_processor") or {}).get("type"),
        "dropout": model.get("dropout"),
    }
    if model.get("type") == "WordLevel":
        _refuse_others({**came, "pre_tokenizer": document.get("pre_tokenizer")}, {"pre_tokenizer": (ONE_BY_ONE,)}, where)
        return _from_characters(vocab, where)
    pre = document.get("pre_tokenizer") or {}
    came |= {
        "model": model.get("type", "BPE"),
        "pre_tokenizer": pre.get("type"),
        "add_prefix_space": pre.get("add_prefix_space"),
        "use_regex": pre.get("use_regex", True),
        "continuing_subword_prefix": model.get("continuing_subword_prefix"),
        "end_of_word_suffix": model.get("end_of_word_suffix"),
    }
    can: dict[str, tuple[Any, ...]] = {
        "model": ("BPE",),
        "pre_tokenizer": ("ByteLevel",),
        "add_prefix_space": (False,),
        "use_regex": (True,),
        "post_processor": (None, "ByteLevel"),
        "continuing_subword_prefix": (None, ""),
        "end_of_word_suffix": (None, ""),
    }
    _refuse_others(came, can, where)
    return _from_vocab(vocab, _pairs(model.get("merges") or [], where), where)


def _pairs(merges: list[str | list[str]], where: Path | str) -> list[tuple[str, str]]:
    """The merges of a model, which Hugging Face writes as "a b" or as ["a", "b"]."""
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
    if wrong := [pair for pair in pairs if len(pair) != 2]:
        raise TokenizerProblem(f"{where}: wanted merges of two tokens, came {wrong[0]}")
    return cast(list[tuple[str, str]], pairs)


def _refuse_others(came: dict[str, Any], can: dict[str, tuple[Any, ...]], where: Path) -> None:
    """Raises TokenizerProblem naming all features whose value is not among those that can be represented (None where not listed)."""
    wrong = [f"{name} {came[name]!r} (wanted {can.get(name, (None,))[0]!r})" for name in came if came[name] not in can.get(name, (None,))]
    if wrong:
        raise TokenizerProblem(f"{where}: cannot be used here: {', '.join(wrong)}; use a tokenizer like GPT-2's")


def _check_ids(vocab: dict[str, int], where: Path | str) -> None:
    """Raises TokenizerProblem unless the ids are 0 to V - 1 with the end of text last."""
    last = len(vocab) - 1
    if vocab.get(END_OF_TEXT) != last:
        raise TokenizerProblem(
            f"{where}: wanted {END_OF_TEXT} as the last id, {last}, came {vocab.get(END_OF_TEXT)}; it cannot be used here"
        )
    if set(vocab.values()) != set(range(len(vocab))):
        raise TokenizerProblem(f"{where}: wanted the ids 0 to {last}, each once; some are missing or double")


def _from_characters(vocab: dict[str, int], where: Path | str) -> Tokenizer:
    _check_ids(vocab, where)
    characters = sorted((token for token in vocab if token != END_OF_TEXT), key=vocab.__getitem__)
    if long := [token for token in characters if len(token) != 1]:
        raise TokenizerProblem(f"{where}: wanted tokens of one character, came {long[0]!r}; it cannot be used here")
    return Tokenizer("chars", [character.encode("utf-8") for character in characters], Characters(characters))


# --- learning ----------------------------------------------------------------------------------------------------------------


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE learned from texts: ids 0 to 255 are the bytes in GPT-2's order, then the merges as learned, the end of text last.

    The same texts in the same order give the same tokenizer, whatever the number of threads. A text too small for `vocab_size`
    gives fewer ids. Raises TokenizerProblem if `vocab_size` is below 257 or if the texts pass LARGEST_TRAINING_TEXT bytes.
    """
    from tokenizers import Tokenizer as Learner
    from tokenizers import models, pre_tokenizers, trainers

    if vocab_size < 257:
        raise TokenizerProblem(f"vocab_size: wanted at least 257 (256 bytes and {END_OF_TEXT}), came {vocab_size}")
    learner = Learner(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, show_progress=False, special_tokens=[], initial_alphabet=[visible(bytes([b])) for b in BYTES_IN_ORDER]
    )
    chosen = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = chosen or "true"
    try:
        learner.train_from_iterator(_bounded(texts), trainer)
    finally:  # its threads do not survive a fork: what older releases do at the first one, with a warning, is done here without
        os.environ["TOKENIZERS_PARALLELISM"] = chosen or "false"
    model = json.loads(learner.to_str())["model"]
    vocab = {**model["vocab"], END_OF_TEXT: len(model["vocab"])}
    return _from_vocab(vocab, _pairs(model["merges"], "the learned merges"), "the learned vocabulary")


def _bounded(texts: Iterable[str]) -> Iterator[str]:
    """The texts, lone surrogates replaced, until they are too large."""
    size = 0
    for text in texts:
        try:
            size += len(text.encode("utf-8"))
        except UnicodeEncodeError:
            text = _without_surrogates(text)
            size += len(text.encode("utf-8"))
        if size > LARGEST_TRAINING_TEXT:
            raise TokenizerProblem(f"wanted at most {LARGEST_TRAINING_TEXT:,} bytes of text to learn from, came more; pass a sample")
        yield text


def train_chars(texts: Iterable[str]) -> Tokenizer:
    """One id per character of the texts, in the order of code points, the end of text last."""
    characters: set[str] = set()
    for text in texts:
        characters.update(_without_surrogates(text))
    vocab = {character: i for i, character in enumerate([*sorted(characters), END_OF_TEXT])}
    return _from_characters(vocab, "the learned vocabulary")

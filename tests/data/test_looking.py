"""A look at data: lengths, frequencies and windows are those of the tokens, of all or of an even sample; spans lose nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_documents

from daybreak.data import looking
from daybreak.data.foreign import open_manifest, open_tokenizer
from daybreak.data.looking import look, spans, windows
from daybreak.data.shards import ShardWriter, TokenStream
from daybreak.data.tokenizer import Tokenizer, load_tokenizer, train_bpe


def all_tokens(folder: Path, split: str) -> list[int]:
    stream = TokenStream(open_manifest(folder).shard_paths(split))
    return stream.read(0, len(stream)).tolist()


def plain_lengths(tokens: list[int], eot: int) -> list[int]:
    """The lengths of the documents of a stream, counted one by one."""
    found: list[int] = []
    for token in tokens:
        if token == eot:
            found.append(0)
        elif found:
            found[-1] += 1
    return found


def test_all_of_a_small_text_is_looked_at(data_dir: Path) -> None:
    tokens, manifest = all_tokens(data_dir, "train"), open_manifest(data_dir)
    view, counted = look(data_dir), Counter(tokens)
    eot = manifest.tokenizer["eot"]
    lengths = plain_lengths(tokens, eot)
    assert view.tokens == view.sampled == len(tokens)
    assert view.text_bytes == manifest.train.text_bytes
    assert view.distinct == len(counted)
    assert view.lengths is not None
    assert view.lengths.documents == manifest.train.documents == len(lengths)
    assert (view.lengths.shortest, view.lengths.longest) == (min(lengths), max(lengths))
    assert view.lengths.mean == pytest.approx(np.mean(lengths))
    assert view.lengths.median == np.median(lengths)
    for low, high, count in view.lengths.histogram:
        assert count == sum(low <= length <= high for length in lengths)
    assert sum(count for *_, count in view.lengths.histogram) == len(lengths)
    del counted[eot]
    assert [(row.token, row.count) for row in view.frequent] == sorted(counted.items(), key=lambda row: (-row[1], row[0]))[:20]
    assert view.frequent[0].share == pytest.approx(view.frequent[0].count / counted.total())


def test_of_a_long_text_an_even_sample_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.tile(np.array([256, *range(65, 74)], np.uint16), 5000)
    for split in ("train", "val"):
        with ShardWriter(tmp_path, f"text_{split}", 7000) as writer:
            writer.write(tokens)
        for path in tmp_path.glob(f"text_{split}-*.bin"):
            path.rename(tmp_path / path.name.replace("-", "_"))
    load_tokenizer("bytes").save(tmp_path / "tokenizer")
    view = look(tmp_path, most_tokens=6400)
    assert (view.tokens, view.sampled) == (50_000, 6400)
    assert view.lengths is not None
    assert (view.lengths.shortest, view.lengths.longest) == (9, 9)  # also of those that end beyond their block
    assert view.lengths.documents == pytest.approx(640, abs=64)
    assert {row.token for row in view.frequent} == set(range(65, 74))
    monkeypatch.setattr(looking, "_FAR", 3)
    cut = look(tmp_path, most_tokens=6400).lengths
    assert cut is not None
    assert cut.longest == 9
    assert cut.shortest >= 3


def test_a_text_without_documents_has_no_lengths(tmp_path: Path) -> None:
    for split in ("train", "val"):
        np.full(500, 65, np.uint16).tofile(tmp_path / f"{split}.bin")
    load_tokenizer("bytes").save(tmp_path / "tokenizer")
    view = look(tmp_path)
    assert view.lengths is None
    assert [(row.token, row.count, row.share) for row in view.frequent] == [(65, 500, 1.0)]


def test_windows_are_the_text_cut_where_documents_end(data_dir: Path) -> None:
    tokenizer, tokens = open_tokenizer(open_manifest(data_dir)), all_tokens(data_dir, "train")
    found = windows(data_dir, "train", 5, 400)
    assert len({window.start for window in found}) > 1
    for window in found:
        read = tokens[window.start : window.start + window.tokens]
        assert len(read) == 400
        assert "".join(window.pieces) == tokenizer.decode(read)
        assert len(window.pieces) == read.count(tokenizer.eot) + 1 > 1
    assert windows(data_dir, "val", 1, 10**9)[0].tokens == len(all_tokens(data_dir, "val"))
    assert windows(data_dir, "train", 0, 10) == []


LEARNED = train_bpe(tiny_documents(), 400)
tokenizers = st.sampled_from([LEARNED, load_tokenizer("bytes")])


@given(tokenizers, st.text(max_size=80))
def test_spans_lose_nothing_and_cut_no_character(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    found = list(spans(tokenizer, ids))
    assert [token for span in found for token in span.tokens] == ids.tolist()
    assert "".join(span.text for span in found) == tokenizer.decode(ids) == text
    assert all(len(span.tokens) == 1 for span in found if span.text.isascii())


@given(tokenizers, st.lists(st.integers(0, 255), max_size=40))
def test_spans_of_bytes_that_are_no_text(tokenizer: Tokenizer, ids: list[int]) -> None:
    found = list(spans(tokenizer, np.array(ids, np.uint16)))
    assert [token for span in found for token in span.tokens] == ids
    assert "".join(span.text for span in found) == tokenizer.decode(ids)

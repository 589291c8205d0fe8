"""Shards: the bytes of the header, streams over many files, and every damage named."""

import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybreak.data.shards import ShardProblem, ShardWriter, TokenStream, check_vocabulary, find_shards, header, read_shard


def write(folder, tokens, shard_tokens, prefix="train"):
    with ShardWriter(folder, prefix, shard_tokens) as writer:
        writer.write(np.asarray(tokens))
    return writer.paths


def test_the_bytes_are_llm_c_s(tmp_path):
    [path] = write(tmp_path, [5, 50256, 65535], 100)
    assert path.name == "train-000000.bin"
    content = path.read_bytes()
    assert content[:12] == struct.pack("<iii", 20240520, 1, 3)
    assert content[12:1024] == bytes(1012)
    assert content[1024:] == struct.pack("<HHH", 5, 50256, 65535)
    assert len(content) == 1024 + 6


@given(
    pieces=st.lists(st.lists(st.integers(0, 65535), max_size=30), max_size=8),
    shard_tokens=st.integers(1, 40),
    data=st.data(),
)
def test_a_stream_is_the_array_that_was_written(tmp_path_factory, pieces, shard_tokens, data):
    folder = tmp_path_factory.mktemp("shards")
    whole = np.array([token for piece in pieces for token in piece], dtype=np.uint16)
    with ShardWriter(folder, "val", shard_tokens) as writer:
        for piece in pieces:
            writer.write(np.array(piece, dtype=data.draw(st.sampled_from([np.uint16, np.int64]))))
    assert len(writer.paths) == -(-len(whole) // shard_tokens)
    if not len(whole):
        return
    assert find_shards(folder, "val") == writer.paths
    assert all(len(read_shard(path)) == shard_tokens for path in writer.paths[:-1])
    stream = TokenStream(writer.paths)
    assert len(stream) == len(whole)
    start = data.draw(st.integers(0, len(whole)))
    count = data.draw(st.integers(0, len(whole) - start))
    np.testing.assert_array_equal(stream.read(start, count), whole[start : start + count])
    length = data.draw(st.integers(1, len(whole)))
    starts = np.array(data.draw(st.lists(st.integers(0, len(whole) - length), max_size=5)), dtype=np.int64)
    windows = stream.windows(starts, length)
    assert windows.shape == (len(starts), length)
    assert windows.dtype == np.uint16
    for row, begin in zip(windows, starts, strict=True):
        np.testing.assert_array_equal(row, whole[begin : begin + length])


def test_a_stream_travels_to_another_process_as_its_paths(tmp_path):
    stream = TokenStream(write(tmp_path, np.arange(60_000), 50_000))
    message = pickle.dumps(stream)
    assert len(message) < 2000
    np.testing.assert_array_equal(pickle.loads(message).read(49_990, 20), np.arange(49_990, 50_010))  # noqa: S301


def test_an_interrupted_writer_leaves_no_part_of_a_shard(tmp_path):
    def interrupted():
        with ShardWriter(tmp_path, "train", 10) as writer:
            writer.write(np.arange(15))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["train-000000.bin"]
    assert len(read_shard(tmp_path / "train-000000.bin")) == 10


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "fewer than the header"),
        (header(3)[:500], "fewer than the header"),
        (bytes(1024 + 6), "magic 0, version 0"),
        (struct.pack("<iii", 20240522, 1, 3) + bytes(1100), "evaluation file"),
        (struct.pack("<iii", 20240520, 2, 3) + bytes(1012 + 6), "version 2"),
        (header(3) + bytes(4), "cut short"),
        (header(3) + bytes(7), "cut short"),
        (header(3) + bytes(8), "the file has 1,032 bytes"),
        (header(-1), "cut short or damaged"),
        (b"\x93NUMPY garbage", "build-nanogpt"),
    ],
)
def test_damage_is_named(tmp_path, content, words):
    path = tmp_path / "train-000000.bin"
    path.write_bytes(content)
    with pytest.raises(ShardProblem, match=words) as caught:
        read_shard(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(ShardProblem, match=r"nothing\.bin"):
        read_shard(tmp_path / "nothing.bin")
    with pytest.raises(ShardProblem, match="data prepare"):
        find_shards(tmp_path, "train")
    with pytest.raises(ShardProblem, match="empty"):
        TokenStream([])


def test_shards_of_others_are_read_as_they_are(tmp_path):
    tokens = np.array([1, 2, 50256], dtype=np.uint16)
    np.save(tmp_path / "edufineweb_train_000001.npy", tokens)
    (tmp_path / "train.bin").write_bytes(tokens.tobytes())
    wide = np.array([1, 2, 128_000], dtype="<u4")
    (tmp_path / "fineweb_val_000000.bin").write_bytes(struct.pack("<iii", 20240801, 7, 3) + bytes(1012) + wide.tobytes())
    np.testing.assert_array_equal(read_shard(tmp_path / "edufineweb_train_000001.npy"), tokens)
    np.testing.assert_array_equal(read_shard(tmp_path / "train.bin"), tokens)
    np.testing.assert_array_equal(read_shard(tmp_path / "fineweb_val_000000.bin"), wide)
    assert [path.name for path in find_shards(tmp_path, "train")] == ["edufineweb_train_000001.npy", "train.bin"]
    with pytest.raises(ShardProblem, match="one kind"):
        TokenStream([tmp_path / "train.bin", tmp_path / "fineweb_val_000000.bin"])


def test_odd_or_many_dimensional_files_of_others_are_named(tmp_path):
    (tmp_path / "val.bin").write_bytes(b"123")
    with pytest.raises(ShardProblem, match="odd number"):
        read_shard(tmp_path / "val.bin")
    np.save(tmp_path / "a.npy", np.zeros((2, 2), dtype=np.uint16))
    with pytest.raises(ShardProblem, match="one row"):
        read_shard(tmp_path / "a.npy")


def test_what_does_not_fit_is_refused(tmp_path):
    check_vocabulary(65_536, "wide")
    with pytest.raises(ShardProblem, match=r"wider: has 65,537 tokens"):
        check_vocabulary(65_537, "wider")
    for ids in ([-1], [65_536]):
        with ShardWriter(tmp_path, "train", 10) as writer, pytest.raises(ShardProblem, match=r"0\.\.65,535"):
            writer.write(np.array(ids))
    with pytest.raises(ShardProblem, match="shard_tokens"):
        ShardWriter(tmp_path, "train", 0)


def test_reading_outside_the_stream_is_named(tmp_path):
    stream = TokenStream(write(tmp_path, np.arange(10), 4))
    for start, count in ((-1, 2), (9, 2), (0, 11)):
        with pytest.raises(ShardProblem, match="the stream has 10"):
            stream.read(start, count)
    with pytest.raises(ShardProblem, match="stream has 10"):
        stream.windows(np.array([8]), 3)
    assert stream.windows(np.array([], dtype=np.int64), 3).shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "said"), [(lambda path: path.unlink(), "it is gone"), (lambda path: os.truncate(path, 2000), "2,000 bytes")]
)
def test_a_shard_that_vanishes_or_is_cut_while_it_is_read_is_told_by_name(tmp_path, change, said):
    with ShardWriter(tmp_path, "train", 600) as writer:
        writer.write(np.arange(1500, dtype=np.uint16))
    stream = TokenStream(writer.paths)
    change(writer.paths[1])
    assert stream.windows(np.array([0, 500]), 100).tolist() == [list(range(100)), list(range(500, 600))]  # the others serve on
    with pytest.raises(ShardProblem, match=rf"train-000001\.bin: had 2,224 bytes when it was opened, now .*{said}; put it back"):
        stream.windows(np.array([700]), 100)

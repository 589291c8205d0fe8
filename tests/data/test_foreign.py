"""Token shards of others: the same tokens in every layout are the same text, and what is not as it should be is told in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, llm_c, llm_c_wide, nanogpt
from tiny import tiny_settings, tiny_words

from daybreak import metrics
from daybreak.cli import main
from daybreak.corpus import Data
from daybreak.data import foreign
from daybreak.data.batches import Batches
from daybreak.data.inspection import sample_documents, show, verify
from daybreak.data.manifest import ManifestProblem, load_manifest
from daybreak.data.shards import ShardProblem
from daybreak.data.tokenizer import load_tokenizer
from daybreak.story import run


@pytest.fixture(scope="module")
def ours(data_dir):
    return Data.open(data_dir)


@pytest.fixture(params=LAYOUTS)
def folder(request, ours, tmp_path):
    """The tokens of the tiny text in a layout of others, with the tokenizer beside them."""
    return write(tmp_path / "theirs", request.param, ours)


def write(folder, layout, data, tokenizer=True):
    folder.mkdir()
    for split, stream in (("train", data.train), ("val", data.val)):
        LAYOUTS[layout](folder, split, stream.read(0, len(stream)))
    if tokenizer:
        data.tokenizer.save(folder / "tokenizer")
    return folder


@pytest.fixture
def bytes_for_gpt2(monkeypatch):
    """Lets the tokenizer that is assumed be that of bytes, as GPT-2's vocabulary is not on every machine."""
    monkeypatch.setattr(foreign, "load_tokenizer", lambda name, load=load_tokenizer: load("bytes" if name == "gpt2" else name))


def whole(stream):
    return stream.read(0, len(stream))


# --- The same text ---


def test_every_layout_is_the_same_tokens_and_the_same_batches(folder, ours):
    data = Data.open(folder)
    assert data.tokenizer.fingerprint == ours.tokenizer.fingerprint
    for theirs, own in ((data.train, ours.train), (data.val, ours.val)):
        np.testing.assert_array_equal(whole(theirs), whole(own))
    settings = {"context_length": 16, "batch_tokens": 64, "micro_batch": 2, "seed": 3}
    one, other = Batches(data.train, **settings), Batches(ours.train, **settings)
    for step in (0, 1, 7, 500):
        for left, right in zip(one[step], other[step], strict=True):
            assert torch.equal(left.inputs, right.inputs)
            assert torch.equal(left.targets, right.targets)
            assert left.inputs.dtype == right.inputs.dtype


def test_every_layout_trains_to_the_same_losses_and_weights(folder, run_dir, tmp_path):
    assert run(tiny_settings(folder), tmp_path / "run")["event"] == "end"
    theirs, own = (
        [(row["event"], row.get("loss"), row.get("val_loss"), row.get("text")) for row in metrics.read(out / "metrics.jsonl")]
        for out in (tmp_path / "run", run_dir)
    )
    assert theirs == own
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "run" / "model" / name).read_bytes() == (run_dir / "model" / name).read_bytes()
    kept = json.loads((tmp_path / "run" / "data.json").read_text())
    assert kept == json.loads(json.dumps(foreign.open_manifest(folder).to_dict()))
    assert kept["documents"] is kept["train"]["documents"] is kept["train"]["text_bytes"] is None
    assert kept["tokenizer"]["assumed"] is False


def test_a_run_goes_on_only_with_the_same_shards(ours, tmp_path):
    folder = write(tmp_path / "theirs", "llm.c", ours)
    run(tiny_settings(folder), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    moved = folder.rename(tmp_path / "moved")
    run(tiny_settings(moved), tmp_path / "run")  # where they lie does not matter
    shutil.rmtree(tmp_path / "run" / "model")
    path = moved / "fineweb_train_000001.bin"
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"its text or tokenizer is not what .* was trained on"):
        run(tiny_settings(moved), tmp_path / "run")


def test_ours_are_opened_as_before(data_dir):
    assert not foreign.is_foreign(data_dir)
    assert foreign.open_manifest(data_dir) == load_manifest(data_dir)
    assert foreign.assumption(data_dir) == ""


def test_ours_without_their_manifest_are_a_loss_and_told(data_dir, tmp_path):
    for name in ("train-000000.bin", "val-000000.bin"):
        shutil.copy(data_dir / name, tmp_path)
    with pytest.raises(ManifestProblem, match=r"found no manifest\.json in it"):
        Data.open(tmp_path)
    nanogpt(tmp_path, "train", np.arange(9))
    (tmp_path / ".prepare").mkdir()
    with pytest.raises(ManifestProblem, match="its preparation was interrupted"):
        Data.open(tmp_path)


# --- The fingerprint ---


def test_the_fingerprint_is_of_the_files_not_of_their_place(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "._fineweb_train_000000.bin").write_bytes(b"a Mac's own")
    one, other = foreign.open_manifest(folder), foreign.open_manifest(tmp_path / "copy")
    assert (one.fingerprint, one.files, one.train, one.val) == (other.fingerprint, other.files, other.train, other.val)


@settings(max_examples=15)
@given(data=st.data())
def test_the_fingerprint_notices(ours, tmp_path_factory, data):
    """Any change of a small shard, and any other name, order or tokenizer."""
    folder = write(tmp_path_factory.mktemp("any") / "theirs", data.draw(st.sampled_from(["build-nanogpt", "llm.c"])), ours)
    before = foreign.open_manifest(folder).fingerprint
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    change = data.draw(st.sampled_from(["token", "name", "swap", "less", "tokenizer"]))
    path = data.draw(st.sampled_from(paths))
    if change == "token":
        content = bytearray(path.read_bytes())
        place = len(content) - 2 * data.draw(st.integers(1, 250))
        content[place : place + 2] = b"\x07\0" if content[place] != 7 else b"\x08\0"
        path.write_bytes(content)
    elif change == "name":
        path.rename(path.with_name(path.name.replace("0000", "0100")))
    elif change == "swap":
        one, other = paths[0], paths[1]
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
    elif change == "less":
        [each for each in paths if "_train_" in each.name][-1].unlink()
    else:
        from daybreak.data.tokenizer import train_chars

        train_chars(["".join(map(chr, range(32, 400)))]).save(folder / "tokenizer")
    assert foreign.open_manifest(folder).fingerprint != before


def test_a_large_shard_is_sampled_at_both_ends_and_between(monkeypatch, ours, tmp_path):
    tokens = np.tile(np.arange(200), 500)  # 100,000, of which 8 x 100 are read
    monkeypatch.setattr(foreign, "_BLOCK", 100)
    folder = tmp_path / "theirs"
    folder.mkdir()
    ours.tokenizer.save(folder / "tokenizer")

    def fingerprint(*changed):
        for split in ("train", "val"):
            spoiled = tokens.copy()
            spoiled[list(changed)] += 1
            nanogpt(folder, split, spoiled)
        return foreign.open_manifest(folder).fingerprint

    same = fingerprint()
    between = (100_000 - 100) * 3 // 7 + 50
    for place in (0, 99, between, 99_900, 99_999):
        assert fingerprint(place) != same, place
    assert fingerprint(600, 50_000) == same  # what it cannot notice, as its docstring says


def test_the_sample_is_small_whatever_the_size(ours, tmp_path, monkeypatch):
    """100 shards of 100M tokens, as FineWeb's 10B, in holes instead of disk."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    ours.tokenizer.save(folder / "tokenizer")
    for number in range(100):
        split = "val" if number == 0 else "train"
        with open(folder / f"fineweb_{split}_{number:06d}.bin", "wb") as file:
            file.write(np.array([20240520, 1, 100_000_000], "<i4").tobytes())
            file.truncate(1024 + 200_000_000)
    read = []
    monkeypatch.setattr(foreign, "open", lambda *words, **named: Counted(open(*words, **named), read), raising=False)  # noqa: SIM115
    manifest = foreign.open_manifest(folder)
    assert (manifest.train.tokens, manifest.val.tokens) == (9_900_000_000, 100_000_000)
    assert 2_000_000 < sum(read) < 6_000_000


class Counted:
    """A file that keeps how much was read of it."""

    def __init__(self, file, read):
        self.file, self.sizes, self.seek, self.fileno = file, read, file.seek, file.fileno

    def read(self, size):
        self.sizes.append(size)
        return self.file.read(size)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


# --- The tokenizer ---


@pytest.mark.usefixtures("bytes_for_gpt2")
def test_gpt2_is_assumed_and_it_is_said(ours, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("theirs"), "build-nanogpt", ours, tokenizer=False)
    assert foreign.open_manifest(Path("theirs")).tokenizer["assumed"] is True
    said = "theirs: its shards do not say their tokenizer, GPT-2's is assumed; the tokenizer.json of another goes into theirs/tokenizer\n"
    assert main(["data", "show", "theirs"]) == 0
    assert capsys.readouterr().err == said
    assert main(["data", "verify", "theirs"]) == 0
    assert capsys.readouterr().err == said
    assert main(["train", "demo", *tiny_words(Path("theirs")), "--out", "run"]) == 0
    assert capsys.readouterr().err.startswith(said)
    assert main(["train", "demo", *tiny_words(Path("theirs")), "--out", "other", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert json.loads(Path("run/data.json").read_text())["tokenizer"]["assumed"] is True


@pytest.mark.usefixtures("bytes_for_gpt2")
def test_ids_beyond_the_assumed_tokenizer_are_told(tmp_path):
    for split in ("train", "val"):
        nanogpt(tmp_path, split, np.array([1, 2, 300 if split == "val" else 3]))
    with pytest.raises(
        ManifestProblem, match=r"val\.bin: wanted ids below 257 as GPT-2's tokenizer, which is assumed, has them, came 300"
    ) as told:
        Data.open(tmp_path)
    assert "\n" not in str(told.value)
    load_tokenizer("bytes").save(tmp_path / "tokenizer")
    with pytest.raises(ManifestProblem, match=r"wanted ids below 257 as the tokenizer in .*tokenizer has them, came 300"):
        Data.open(tmp_path)


def test_32_bits_want_a_tokenizer(ours, tmp_path):
    folder = write(tmp_path / "theirs", "llm.c wide", ours, tokenizer=False)
    with pytest.raises(
        ManifestProblem, match=r"its tokens have 32 bits, unlike GPT-2's; put the tokenizer\.json .* into .*theirs/tokenizer"
    ):
        Data.open(folder)


def test_characters_of_nanogpt_are_refused_and_their_pickle_is_not_opened(ours, tmp_path):
    folder = write(tmp_path / "theirs", "nanoGPT", ours, tokenizer=False)
    (folder / "meta.pkl").write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    for ask in (Data.open, verify, show):
        with pytest.raises(ManifestProblem, match=r"meta\.pkl, a pickle, .* `daybreak data prepare input\.txt --tokenizer chars") as told:
            ask(folder)
        assert "\n" not in str(told.value)
    assert foreign.assumption(folder) == ""
    ours.tokenizer.save(folder / "tokenizer")
    assert len(Data.open(folder).val) == len(ours.val)


# --- What is not as it should be ---


def test_a_split_that_is_missing_is_named(folder):
    for path in folder.glob("*val*"):
        path.unlink()
    with pytest.raises(ManifestProblem, match=r"found \S*train\S* but none such as \S*val(_000000)?\.(bin|npy); get those too"):
        Data.open(folder)


def test_several_kinds_or_texts_are_named(ours, tmp_path):
    folder = write(tmp_path / "theirs", "llm.c", ours)
    np.save(folder / "fineweb_train_000002.npy", np.arange(9, dtype=np.uint16))
    for ask in (Data.open, verify):
        with pytest.raises(
            ManifestProblem, match=r"000000\.bin is llm\.c's of uint16 and \S*000002\.npy is build-nanogpt's \.npy of uint16"
        ):
            ask(folder)
    (folder / "fineweb_train_000002.npy").unlink()
    nanogpt(folder, "train", np.arange(9))
    with pytest.raises(ManifestProblem, match=r"wanted the shards of one text, came those of train\.bin and val\.bin and fineweb;"):
        Data.open(folder)
    (folder / "train.bin").unlink()
    Data.open(folder)


def test_train_and_val_of_different_widths_are_named(tmp_path):
    llm_c_wide(tmp_path, "train", np.arange(9))
    (tmp_path / "TinyStories_val_000000.bin").write_bytes(b"")
    llm_c(tmp_path, "val", np.arange(9))
    (tmp_path / "fineweb_val_000000.bin").rename(tmp_path / "TinyStories_val_000000.bin")
    (tmp_path / "fineweb_val_000001.bin").unlink()
    with pytest.raises(ManifestProblem, match=r"is llm\.c's of uint32 and \S* is llm\.c's of uint16"):
        Data.open(tmp_path)


def test_a_cut_shard_is_named(ours, tmp_path):
    folder = write(tmp_path / "theirs", "llm.c", ours)
    path = folder / "fineweb_val_000001.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ShardProblem, match=r"fineweb_val_000001\.bin: its header says .* cut short"):
        Data.open(folder)


# --- Looking ---


def test_show_and_verify(folder, ours, capsys):
    told = show(folder, documents=3, characters=30)
    assert (told.tokens, told.text_bytes, told.bytes_per_token) == (len(ours.train) + len(ours.val), None, None)
    assert told.samples == {split: sample_documents(ours.folder, split, 3, 30) for split in ("train", "val")}
    assert main(["data", "show", str(folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["train_tokens"] == len(ours.train)
    assert shown["documents"] is shown["train_bytes"] is shown["bytes_per_token"] is None
    assert main(["data", "show", str(folder)]) == 0
    assert "documents         not counted\n" in capsys.readouterr().out
    assert verify(folder) == []
    assert main(["data", "verify", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: every size is as its header says, every id a token\n"


def test_verify_reads_every_id_and_every_size(ours, tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "_SCAN", 100)
    folder = write(tmp_path / "theirs", "llm.c", ours)
    path = folder / "fineweb_train_000000.bin"
    content = bytearray(path.read_bytes())
    content[1024 + 2 * 1000 : 1024 + 2 * 1000 + 2] = (257).to_bytes(2, "little")
    path.write_bytes(content)
    cut = folder / "fineweb_val_000001.bin"
    cut.write_bytes(cut.read_bytes()[:-1])
    wrong = verify(folder)
    assert len(wrong) == 2
    assert "fineweb_train_000000.bin: wanted ids below 257" in wrong[0]
    assert "fineweb_val_000001.bin: its header says" in wrong[1]


def test_a_text_without_ends_is_sampled_too(tmp_path, monkeypatch):
    tokens = np.frombuffer(b"abcdefgh" * 2000, np.uint8)
    for split in ("train", "val"):
        nanogpt(tmp_path, split, tokens)
    load_tokenizer("bytes").save(tmp_path / "tokenizer")
    (sample,) = sample_documents(tmp_path, "train", 1, 8)
    assert sample == load_tokenizer("bytes").decode(tokens[:8])
    monkeypatch.setattr("daybreak.data.inspection._FAR", 100)
    assert len(set(sample_documents(tmp_path, "val", 3, 8))) > 1


def test_an_empty_last_document_is_no_sample(tmp_path):
    """nanoGPT ends a document where we begin one: the last token ends the last."""
    tokenizer = load_tokenizer("bytes")
    for split in ("train", "val"):
        nanogpt(tmp_path, split, np.array([*tokenizer.encode("abc"), tokenizer.eot, *tokenizer.encode("xyz"), tokenizer.eot]))
    tokenizer.save(tmp_path / "tokenizer")
    assert sorted(sample_documents(tmp_path, "train", 9, 9)) == ["abc", "xyz"]

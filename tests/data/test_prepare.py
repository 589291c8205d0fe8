"""Prepare: the law is that the bytes depend on the request alone, and that every document is there exactly once."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daybreak.data import assembly, frames, pieces, reading, sorting, tokenizing
from daybreak.data.inspection import sample_documents, show, verify
from daybreak.data.manifest import ManifestProblem, load_manifest
from daybreak.data.plan import PrepareProblem, locked
from daybreak.data.prepare import prepare
from daybreak.data.shards import ShardProblem, TokenStream
from daybreak.data.sources import SourceProblem, Unit
from daybreak.data.tokenizer import load_tokenizer, train_chars
from daybreak.data.workers import Workers
from daybreak.files import FileProblem

BYTES = {"tokenizer": "bytes", "workers": 1}


def run(sources, out, **options):
    """Prepares to the end and returns all that was told."""
    return list(prepare([str(source) for source in sources], out, **{**BYTES, **options}))


def problem(sources, out, **options):
    with pytest.raises(ValueError) as caught:
        run(sources, out, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def shards(out):
    return {path.name: path.read_bytes() for path in out.glob("*.bin")}


def decoded(out, split):
    """The documents of a split, in order."""
    manifest = load_manifest(out)
    tokenizer = load_tokenizer(out / "tokenizer")
    stream = TokenStream(manifest.shard_paths(split))
    tokens = stream.read(0, len(stream))
    assert tokens[0] == tokenizer.eot
    parts = np.split(tokens, np.flatnonzero(tokens == tokenizer.eot)[1:])
    return [tokenizer.decode(part[1:]) for part in parts]


def made_text(count, seed=0):
    random_state = random.Random(seed)
    return [
        " ".join(random_state.choices(["tree", "sky", "größe", "water", "stone", "\n"], k=random_state.randint(1, 30)))
        for _ in range(count)
    ]


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def corpus(tmp_path):
    """A folder of a few files, with duplicates within and between them."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    texts = made_text(400)
    for number in range(4):
        write_jsonl(folder / f"part-{number}.jsonl", texts[number * 90 : number * 90 + 130])
    (folder / "book.txt").write_text("A book. " * 500)
    return folder


def test_every_document_is_there_once_and_in_one_split(corpus, tmp_path):
    out = tmp_path / "data"
    told = run([corpus], out, val_fraction=0.1)
    assert told[-1].stage == "done"
    assert [path.name for path in sorted(out.iterdir())] == ["manifest.json", "tokenizer", "train-000000.bin", "val-000000.bin"]
    train, val = decoded(out, "train"), decoded(out, "val")
    texts = {text for text in made_text(400) if text.strip()} | {"A book. " * 500}
    assert sorted(train + val) == sorted(texts)
    assert not set(train) & set(val)
    assert 0.04 * len(texts) < len(val) < 0.2 * len(texts)
    manifest = load_manifest(out)
    assert manifest.split == "document"
    assert manifest.documents == len(texts)
    assert manifest.duplicates > 100
    assert manifest.train.documents == len(train)
    assert manifest.val.text_bytes == sum(len(text.encode()) for text in val)
    assert manifest.train.tokens == len(train) + manifest.train.text_bytes  # a token per byte, and one before each document
    assert verify(out) == []


def test_the_order_is_a_shuffle_that_the_seed_decides(corpus, tmp_path):
    orders = []
    for seed in (1, 2):
        run([corpus], tmp_path / f"seed-{seed}", seed=seed, val_fraction=0.1)
        orders.append(decoded(tmp_path / f"seed-{seed}", "train"))
    texts = list(dict.fromkeys(made_text(400)))
    places = [[texts.index(text) for text in order if text in texts] for order in orders]
    assert places[0] != places[1]
    for place in places:
        assert abs(np.corrcoef(place, np.arange(len(place)))[0, 1]) < 0.2


def test_the_first_bytes_are_the_header_and_end_of_text(corpus, tmp_path):
    run([corpus], tmp_path / "data")
    content = (tmp_path / "data" / "train-000000.bin").read_bytes()
    assert list(np.frombuffer(content[:12], "<i4")) == [20240520, 1, load_manifest(tmp_path / "data").train.tokens]
    assert np.frombuffer(content[1024:1026], "<u2")[0] == 256


def alone(units):
    """A group for each piece."""
    return [[piece] for unit in units for piece in pieces.pieces(unit)]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(6)),
    cuts=st.lists(st.integers(0, 60), min_size=5, max_size=5).map(sorted),
    bucket_bytes=st.sampled_from([1_000, 20_000, 64_000_000]),
    run_bytes=st.sampled_from([1_000, 5_000, 96_000_000]),
    most_runs=st.sampled_from([1, 4, 1024]),
    frame_bytes=st.sampled_from([100, 1 << 17]),
    piece_bytes=st.sampled_from([1_000, 64_000_000]),
    tokenizer=st.sampled_from(["bytes", "chars", "bpe"]),
)
def test_the_bytes_do_not_depend_on_how_the_work_is_cut(
    tmp_path_factory, order, cuts, bucket_bytes, run_bytes, most_runs, frame_bytes, piece_bytes, tokenizer
):
    folder = tmp_path_factory.mktemp("cut")
    texts = made_text(60)
    plain = write_jsonl(folder / "plain.jsonl", texts)
    parts = [texts[start:end] for start, end in zip([0, *cuts], [*cuts, 60], strict=True)]
    files = [write_jsonl(folder / f"{number}.jsonl", part) for number, part in enumerate(parts)]
    options = {"val_fraction": 0.2, "tokenizer": tokenizer, "vocab_size": 280}
    run([plain], folder / "once", **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "BUCKET_BYTES", bucket_bytes)
        patch.setattr(sorting.SortedDocuments.bucket_count, "__defaults__", (bucket_bytes,))
        patch.setattr(reading, "writing_sorted", lambda *a: sorting.writing_sorted(*a, run_bytes=run_bytes))
        patch.setattr(reading, "MOST_RUNS", most_runs)
        patch.setattr(reading, "MERGED_RUNS", 3)
        patch.setattr(frames, "FRAME_BYTES", frame_bytes)
        patch.setattr(pieces, "PIECE_BYTES", piece_bytes)
        patch.setattr(tokenizing, "MOST_STRETCHES", 4)
        patch.setattr(pieces, "grouped", alone)
        patch.setattr(reading, "grouped", alone)
        run([files[place] for place in order], folder / "cut", **options)
    assert shards(folder / "once") == shards(folder / "cut")
    once, cut = load_manifest(folder / "once"), load_manifest(folder / "cut")
    assert once.fingerprint == cut.fingerprint
    assert (once.documents, once.duplicates) == (cut.documents, cut.duplicates)


def test_one_process_and_two_write_the_same(corpus, tmp_path):
    for workers in (1, 2):
        run([corpus], tmp_path / str(workers), workers=workers, tokenizer="bpe", vocab_size=300)
    assert shards(tmp_path / "1") == shards(tmp_path / "2")
    assert (tmp_path / "1" / "manifest.json").read_bytes() == (tmp_path / "2" / "manifest.json").read_bytes()


SCRIPT = """
import sys
from daybreak.data import prepare, reading, sorting
reading.grouped = lambda units: [[unit] for unit in units]
reading.MOST_RUNS, reading.MERGED_RUNS = 2, 2
sorting.SortedDocuments.bucket_count.__defaults__ = (2_000,)
for progress in prepare.prepare([sys.argv[1]], sys.argv[2], tokenizer="bpe", vocab_size=300, workers=int(sys.argv[3]), val_fraction=0.1):
    print(progress.stage, flush=True)
"""  # without a guard for __main__, as people write it


def test_killed_at_any_moment_the_same_bytes_come_in_the_end(corpus, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run([corpus], tmp_path / "whole", tokenizer="bpe", vocab_size=300, val_fraction=0.1)
    out = tmp_path / "killed"
    moments = random.Random()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    kills = 0
    for attempt in range(7):
        command = [sys.executable, str(script), str(corpus), str(out), "1" if attempt % 2 else "2"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        if attempt < 6:
            for _ in range(moments.randint(1, 25)):  # lines of progress, then a moment more
                process.stdout.readline()
            time.sleep(moments.random() * 0.01)
            process.kill()
            kills += process.wait() == -signal.SIGKILL
        process.communicate()
    assert process.returncode == 0
    assert kills >= 2  # a fast machine may be done before the later ones
    assert shards(out) == shards(tmp_path / "whole")
    assert verify(out) == []
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


def test_stopped_between_any_two_steps_it_goes_on(corpus, tmp_path):
    options = {"val_fraction": 0.1, "tokenizer": "chars"}
    steps = len(run([corpus], tmp_path / "whole", **options))
    expected = shards(tmp_path / "whole")
    for stop in range(1, steps):
        out = tmp_path / f"stop-{stop}"
        story = prepare([str(corpus)], out, **{**BYTES, **options})
        for _ in range(stop):
            next(story)
        story.close()
        run([corpus], out, **options)
        assert shards(out) == expected


def test_what_was_read_is_not_read_again(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "grouped", alone)
    story = prepare([str(corpus)], tmp_path / "data", **BYTES)
    for progress in story:
        if progress.stage == "read" and 0 < progress.done < progress.total:
            break
    story.close()
    told = run([corpus], tmp_path / "data")
    again = next(progress for progress in told if progress.stage == "read")
    assert again.done == progress.done
    assert "continues" in again.note


def test_control_c_leaves_no_worker_and_no_traceback(corpus, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT.replace("for progress", "try:\n  for progress").replace("    print", "      print")
        + "except KeyboardInterrupt: sys.exit(130)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(corpus), str(tmp_path / "data"), "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True, start_new_session=True)
    while process.stdout.readline().strip() != "read":
        pass
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the group
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == ""
    deadline = time.monotonic() + 20
    while group_lives(process.pid):  # Python's own resource tracker ends a moment later
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "continues" in " ".join(
        progress.note for progress in run([corpus], tmp_path / "data", tokenizer="bpe", vocab_size=300, val_fraction=0.1)
    )


def group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_complete_folder_is_left_as_it_is(corpus, tmp_path):
    out = tmp_path / "data"
    run([corpus], out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    [progress] = run([corpus], out)
    assert "complete already" in progress.note
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_another_request_into_the_folder_is_refused(corpus, tmp_path):
    out = tmp_path / "data"
    run([corpus], out)
    message = problem([corpus], out, seed=7, val_fraction=0.2)
    assert "seed 1337 (asked for: 7)" in message
    assert "val_fraction 0.01 (asked for: 0.2)" in message
    assert "another --out" in message
    half = tmp_path / "half"
    story = prepare([str(corpus)], half, **BYTES)
    while next(story).stage != "tokenize":
        pass
    story.close()
    assert "unfinished" in problem([corpus], half, seed=7)
    run([corpus], half)
    assert shards(half) == shards(out)


def test_a_preparation_that_has_read_nothing_yet_does_not_stand_in_the_way(tmp_path):
    rows = [json.dumps({"body": f"{number}. " + "text " * 20}) + "\n" for number in range(50)]
    (tmp_path / "a.jsonl").write_text("".join(rows))
    out = tmp_path / "data"
    assert "choose one with --text-field" in problem([tmp_path / "a.jsonl"], out)
    told = run([tmp_path / "a.jsonl"], out, text_field="body")
    assert any("had read nothing yet; starts over" in progress.note for progress in told)
    assert load_manifest(out).options["text_field"] == "body"
    assert load_manifest(out).documents == 50
    assert not (out / ".prepare").exists()


def test_another_tokenizer_in_the_same_place_is_refused(corpus, tmp_path):
    train_chars(["".join(map(chr, range(32, 400))) + "\n"]).save(tmp_path / "tokenizer")
    options = {"tokenizer": str(tmp_path / "tokenizer")}
    run([corpus], tmp_path / "data", **options)
    assert load_manifest(tmp_path / "data").tokenizer["fingerprint"] == load_tokenizer(tmp_path / "tokenizer").fingerprint
    train_chars(["".join(map(chr, range(32, 500))) + "\n"]).save(tmp_path / "tokenizer")
    assert "another tokenizer" in problem([corpus], tmp_path / "data", **options)


def test_changed_sources_start_over(corpus, tmp_path):
    out = tmp_path / "data"
    story = prepare([str(corpus)], out, **BYTES, val_fraction=0.1)
    while next(story).stage != "tokenize":
        pass
    story.close()
    (corpus / "book.txt").write_text("Another book. " * 500)
    told = run([corpus], out, val_fraction=0.1)
    assert any("book.txt changed" in progress.note and "starts over" in progress.note for progress in told)
    assert "Another book. " * 500 in decoded(out, "train") + decoded(out, "val")


def test_one_text_is_split_as_nanogpt_does(tmp_path):
    text = "".join(made_text(200, seed=4))
    (tmp_path / "input.txt").write_text(text)
    run([tmp_path / "input.txt"], tmp_path / "data", tokenizer="chars", val_fraction=0.1)
    assert load_manifest(tmp_path / "data").split == "tail"
    assert decoded(tmp_path / "data", "train") == [text[: int(len(text) * 0.9)]]
    assert decoded(tmp_path / "data", "val") == [text[int(len(text) * 0.9) :]]


def test_the_split_follows_what_was_asked(corpus, tmp_path):
    run([corpus], tmp_path / "tail", split="tail", val_fraction=0.25)
    train, val = load_manifest(tmp_path / "tail").train, load_manifest(tmp_path / "tail").val
    assert val.text_bytes / (train.text_bytes + val.text_bytes) == pytest.approx(0.25, abs=0.02)
    (tmp_path / "input.txt").write_text("One text alone. " * 20)
    assert "--split tail" in problem([tmp_path / "input.txt"], tmp_path / "one", split="document")
    assert not (tmp_path / "one").exists()


def test_shards_have_the_size_that_was_asked_for(corpus, tmp_path):
    run([corpus], tmp_path / "small", shard_tokens=1000)
    run([corpus], tmp_path / "large")
    small, large = load_manifest(tmp_path / "small"), load_manifest(tmp_path / "large")
    assert len(small.train.shards) == -(-small.train.tokens // 1000)
    assert {(tmp_path / "small" / name).stat().st_size for name in small.train.shards[:-1]} == {1024 + 2000}
    assert small.train.tokens == large.train.tokens
    assert decoded(tmp_path / "small", "train") == decoded(tmp_path / "large", "train")
    assert verify(tmp_path / "small") == []


def test_a_million_tiny_documents_and_a_long_one(tmp_path, monkeypatch):
    for room in (reading, tokenizing):
        monkeypatch.setattr(room, "TOLD_BYTES", 10_000)  # so that all that is done in between is done
    texts = [str(number) for number in range(20_000)] + ["long " * 200_000]
    run([write_jsonl(tmp_path / "a.jsonl", texts)], tmp_path / "data")
    assert sorted(decoded(tmp_path / "data", "train") + decoded(tmp_path / "data", "val")) == sorted(texts)


def test_standard_input_is_kept_for_the_next_run(tmp_path):
    code = "from daybreak.data.prepare import prepare; import sys\nfor _ in prepare(['-'], sys.argv[1], tokenizer='bytes'): pass"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path / "data")]
    subprocess.run(command, input=b"typed by hand. " * 40, env=environment, check=True)
    assert decoded(tmp_path / "data", "train")[0].startswith("typed by hand.")
    assert not (tmp_path / "data" / ".prepare").exists()


def test_the_folder_that_is_written_is_not_read(corpus):
    run([corpus], corpus / "data")
    assert load_manifest(corpus / "data").sources[0]["files"] == 5
    run([corpus], corpus / "data")


def test_what_cannot_be_met_is_said_before_anything_is_written(corpus, tmp_path):
    out = tmp_path / "data"
    for options, words in (
        ({"val_fraction": 0}, "val_fraction"),
        ({"val_fraction": 0.6}, "at most 0.5"),
        ({"split": "random"}, "auto, document or tail"),
        ({"shard_tokens": 0}, "shard_tokens"),
        ({"tokenizer": "bpe", "vocab_size": 100}, "257"),
        ({"tokenizer": "bpe", "vocab_size": 100_000}, "65,536"),
        ({"workers": 0}, "workers"),
        ({"tokenizer": "gpt3"}, "gpt3"),
        ({"tokenizer": str(tmp_path / "nowhere")}, "nowhere"),
    ):
        assert words in problem([corpus], out, **options)
    assert "at least one" in problem([], out)
    assert "more often" in problem(["-", "-"], out)
    assert "found nothing" in problem([tmp_path / "nowhere.txt"], out)
    (tmp_path / "empty.txt").write_text("")
    assert "found none; left out: 1 empty" in problem([tmp_path / "empty.txt"], out)
    (tmp_path / "short.txt").write_text("too short")
    assert "at least 64 tokens" in problem([tmp_path / "short.txt"], out)
    assert not out.exists()
    with pytest.raises(PrepareProblem) as caught:
        prepare([], out, val_fraction=3, split="x")
    assert len(str(caught.value).split("\n")) == 3
    with pytest.raises(PrepareProblem) as caught:
        prepare(["a.txt"], out, val_fraction=3, workers=0)
    assert [line.partition(":")[0] for line in str(caught.value).split("\n")] == ["val_fraction", "workers"]


def test_places_that_cannot_be_written_to_are_named(corpus, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "it is a file" in problem([corpus], tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    assert "thesis.tex" in problem([corpus], tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    with locked(tmp_path / "busy"):
        assert f"another process ({os.getpid()}) prepares data there" in problem([corpus], tmp_path / "busy")
    run([corpus], tmp_path / "busy")


def test_a_wide_vocabulary_is_refused_by_name(corpus, tmp_path):
    wide = train_chars(["".join(map(chr, range(0x20, 0xD000))) + "".join(map(chr, range(0x10000, 0x18000)))])
    wide.save(tmp_path / "wide")
    with pytest.raises(ShardProblem, match="65,536"):
        run([corpus], tmp_path / "data", tokenizer=str(tmp_path / "wide"))


def test_too_little_space_is_said_before_it_begins(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=10))
    with pytest.raises(FileProblem, match="free some"):
        run([corpus], tmp_path / "data")


@pytest.mark.parametrize(("room", "name"), [(reading, "writing_sorted"), (tokenizing, "replacing"), (assembly, "replacing")])
def test_a_full_disk_keeps_the_work(corpus, tmp_path, monkeypatch, room, name):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(room, name, full)
        assert "the disk is full" in problem([corpus], tmp_path / "data")
    run([corpus], tmp_path / "data")
    run([corpus], tmp_path / "other")
    assert shards(tmp_path / "data") == shards(tmp_path / "other")


def test_a_problem_in_a_worker_arrives_as_it_was(tmp_path):
    (tmp_path / "corpus").mkdir()
    for name in ("a", "b"):
        (tmp_path / "corpus" / f"{name}.jsonl").write_text("no json\n" * 200_000)
    with pytest.raises(SourceProblem, match="no line of 200,000 is JSON"):
        run([tmp_path / "corpus"], tmp_path / "data", workers=2)


def test_a_worker_that_dies_is_named():
    with Workers(2) as pool, pytest.raises(RuntimeError, match="a worker process died"):
        list(pool.map(die, [(), ()]))


def die():
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    yield 1


def test_workers_do_all_tasks_and_tell_of_each():
    with Workers(2) as pool:
        assert sorted(pool.map(count, [(1,), (2,), (3,)])) == [0, 0, 0, 1, 1, 2]
        assert sorted(pool.map(count, [(2,), (2,)])) == [0, 0, 1, 1]
        assert list(pool.map(count, [])) == []


def count(number):
    yield from range(number)


def test_workers_start_beside_threads():
    results = []

    def work():
        with Workers(2) as pool:
            results.extend(pool.map(count, [(1,), (1,)]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [0, 0]


def test_every_part_of_a_dataset_is_read_alone():
    parts = [Unit("hf", "some/set::train", "hf:some/set", shard=shard, shards=3) for shard in range(3)]
    files = [Unit("text", f"{number}.txt", f"{number}.txt", 10) for number in range(3)]
    assert pieces.grouped([*parts, *files])[:2] == [[parts[0]], [parts[1]]]


# --- inspection ---


def test_every_flipped_bit_is_found(corpus, tmp_path):
    out = tmp_path / "data"
    run([corpus], out)
    moments = random.Random(0)
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        places = [0, len(whole) - 1, *(moments.randrange(len(whole)) for _ in range(40 if path.name == "manifest.json" else 3))]
        for place in places:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << moments.randrange(8)
            path.write_bytes(bytes(damaged))
            found = verify(out)
            assert found, (path, place)
            assert any(path.name in finding for finding in found)
            assert not any("\n" in finding for finding in found)
        path.write_bytes(whole)
    assert verify(out) == []
    (out / "val-000000.bin").unlink()
    assert verify(out) == ["val-000000.bin: missing"]
    (out / "train-000009.bin").write_bytes(b"")
    assert "train-000009.bin: is not in the manifest; delete it" in verify(out)


def test_no_data_folder_is_named(tmp_path, corpus):
    with pytest.raises(ManifestProblem, match="data prepare"):
        load_manifest(tmp_path)
    with pytest.raises(ManifestProblem, match="data prepare"):
        verify(tmp_path / "nowhere")
    story = prepare([str(corpus)], tmp_path / "half", **BYTES)
    while next(story).stage != "read":
        pass
    story.close()
    with pytest.raises(ManifestProblem, match="interrupted"):
        load_manifest(tmp_path / "half")
    (tmp_path / "manifest.json").write_text('{"format": 9, "checksum": ""}')
    with pytest.raises(ManifestProblem, match="format 9"):
        load_manifest(tmp_path)
    for content in ("[]", "{", "{}"):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(ManifestProblem, match="damaged"):
            load_manifest(tmp_path)


def test_show_gives_figures_and_documents(corpus, tmp_path):
    run([corpus], tmp_path / "data", val_fraction=0.1)
    overview = show(tmp_path / "data", documents=3, characters=20)
    assert overview.bytes_per_token == 1
    assert overview.tokens == overview.manifest.train.tokens + overview.manifest.val.tokens
    for split, samples in overview.samples.items():
        assert len(samples) == 3
        whole = decoded(tmp_path / "data", split)
        assert all(any(text.startswith(sample) for text in whole) for sample in samples)
    assert sample_documents(tmp_path / "data", "val", 2, 50) == sample_documents(tmp_path / "data", "val", 2, 50)


def test_tiny_shakespeare_has_nanogpt_s_figures(tmp_path):
    folder = Path(__file__).parents[2].parent / "shared" / "data" / "tinyshakespeare"
    source = next(iter(sorted(folder.glob("*.txt"), key=lambda path: -path.stat().st_size)), None)
    if source is None:
        pytest.skip("shared/data/tinyshakespeare is not beside the checkout")
    run([source], tmp_path / "data", tokenizer="chars", val_fraction=0.1)
    manifest = load_manifest(tmp_path / "data")
    assert (manifest.train.tokens - 1, manifest.val.tokens - 1) == (1_003_854, 111_540)
    assert manifest.tokenizer["vocab_size"] == 65 + 1

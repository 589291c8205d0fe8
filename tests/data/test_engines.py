"""Engines: a cluster writes the very bytes that one machine does, whoever of its workers dies; what it cannot do is said in a line."""

import json
import os
import random
import signal
import socket
import subprocess
import sys

import pytest

from daybreak.data import engines
from daybreak.data.documents import SourceProblem
from daybreak.data.engines import Dask, EngineProblem
from daybreak.data.inspection import verify
from daybreak.data.plan import PrepareProblem
from daybreak.data.prepare import prepare

pytest.importorskip("distributed", reason="the package distributed is not installed")

WORDS = ["tree", "sky", "größe", "water", "stone", "\n"]


def run(source, out, **options):
    return list(prepare([str(source)], out, tokenizer="bytes", **options))


def files(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def write_corpus(folder, count, documents):
    """Files of a megabyte or so, of which each becomes a part."""
    folder.mkdir()
    random_state = random.Random(0)
    for number in range(count):
        texts = (" ".join(random_state.choices(WORDS, k=200)) for _ in range(documents))
        (folder / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


@pytest.fixture
def cluster(tmp_path):
    """The address of a scheduler and its two workers, processes as on any other machine: nobody starts another if one dies."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "DASK_DISTRIBUTED__DASHBOARD__LINK": ""}
    script = [sys.executable, "-c"]
    options = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    command = "from distributed.cli.dask_{0} import main; main()"
    scheduler = [*script, command.format("scheduler"), "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard"]
    worker = [*script, command.format("worker"), address, "--no-nanny", "--nthreads", "1", "--no-dashboard"]
    started = [subprocess.Popen(scheduler, **options), *(subprocess.Popen(worker, **options) for _ in range(2))]
    yield address, started[1:]
    for process in started:
        process.kill()
    for process in started:
        process.wait()


def test_a_cluster_writes_the_same_bytes_though_a_worker_dies(cluster, tmp_path, monkeypatch):
    address, workers = cluster
    there = {"engine": "dask", "engine_address": address}

    (tmp_path / "prose.jsonl").write_text("no json\n" * 10)
    with pytest.raises(SourceProblem, match="no line of 10 is JSON"):
        run(tmp_path / "prose.jsonl", tmp_path / "prose", **there)

    corpus = write_corpus(tmp_path / "corpus", 12, 800)
    with monkeypatch.context() as patch:
        patch.setattr(engines, "write_text", lambda *_: None)  # as if it were written to another disk
        with pytest.raises(PrepareProblem, match=r"tcp://.* does not see .*; put --out where all machines see it"):
            run(corpus, tmp_path / "unseen", **there)

    run(corpus, tmp_path / "here", workers=1)
    killed_at = None
    for progress in prepare([str(corpus)], tmp_path / "there", tokenizer="bytes", **there):
        if progress.stage == "read" and progress.done and killed_at is None:
            workers[0].kill()
            killed_at = progress
    assert 0 < killed_at.done < killed_at.total
    assert workers[1].poll() is None
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert verify(tmp_path / "there") == []


SCRIPT = """
import sys
from daybreak.data.prepare import prepare
try:
    for progress in prepare([sys.argv[1]], sys.argv[2], tokenizer="bytes", engine="dask", workers=2):
        print(progress.stage, flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""  # without a guard for __main__, as people write it


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal for a group of processes")
def test_processes_of_this_machine_may_be_a_cluster_and_are_stopped_without_a_word(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", 6, 800)
    run(corpus, tmp_path / "here", workers=1)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(corpus), str(tmp_path / "there")]
    for stopped in (True, False):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        while stopped and process.stdout.readline().strip() != "read":
            assert process.poll() is None
        if stopped:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the group
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (130 if stopped else 0, "")
    assert files(tmp_path / "there") == files(tmp_path / "here")


def test_a_task_stops_when_nobody_waits_for_it(tmp_path):
    sign = tmp_path / "engine-1.run"
    sign.write_text("")
    assert engines._run(count_until_removed, (sign, 3), str(sign)) == 3


def count_until_removed(sign, last):
    for number in range(100):
        if number == last - 1:
            sign.unlink()
        yield 1


def test_a_scheduler_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "PATIENCE", 0.3)
    with (
        pytest.raises(EngineProblem, match=r"no scheduler at tcp://127.0.0.1:9 .*dask scheduler") as caught,
        Dask(1, "tcp://127.0.0.1:9", tmp_path),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(EngineProblem, match="daybreak\\[cluster\\]"), Dask(1, None, tmp_path):
        pass


def test_engines_that_are_not_are_refused_at_once(tmp_path):
    with pytest.raises(PrepareProblem, match="wanted local or dask, came spark"):
        prepare(["x"], tmp_path, engine="spark")
    with pytest.raises(PrepareProblem, match="add --engine dask"):
        prepare(["x"], tmp_path, engine_address="tcp://somewhere:8786")

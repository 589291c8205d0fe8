"""What all tests share: one thread, no network, and a tiny prepared text and a tiny finished run, each made once per process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the library that reads it
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import hypothesis
import pytest
import torch
from tiny import tiny_documents, tiny_settings, write_jsonl

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore Ctrl-C; tests send it
# A busy machine is no failure, and the same commit gives the same answer.
hypothesis.settings.register_profile("daybreak", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("daybreak")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty cache of this process alone: a test neither finds nor leaves downloads on the machine."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAYBREAK_CACHE", str(folder))
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data folder of some 6,000 tokens with the tokenizer "bytes" (257 ids). To be read only."""
    from daybreak.data.prepare import prepare

    folder = tmp_path_factory.mktemp("prepared")
    source = write_jsonl(folder / "source.jsonl", tiny_documents())
    for _ in prepare([str(source)], folder / "data", tokenizer="bytes", val_fraction=0.2, workers=1):
        pass
    return folder / "data"


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """The folder of a finished run: ten steps of `tiny_settings(data_dir)`. To be read only."""
    from daybreak.story import run

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert run(tiny_settings(data_dir), folder)["event"] == "end"
    return folder

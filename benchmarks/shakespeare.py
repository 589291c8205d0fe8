"""Tiny Shakespeare by characters, against nanoGPT's published CPU recipe: the same text, the same machine, wall-clock time from start-up.

    python benchmarks/shakespeare.py --peer DIR_OF_NANOGPT [--text input.txt]

nanoGPT runs its README's command for a CPU (4 layers, 128 wide, block 64, batch 12, 2,000 iterations). Ours runs the modern recipe, in a
fresh process each time, for as long as nanoGPT took. Both are judged on all of the last 10 % of the text;
nanoGPT's own estimate, a mean over 20 random batches, is recorded beside it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import bar, record
from torch.nn import functional as F

PEER_ARGUMENTS = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=100 --block_size=64 --batch_size=12 "
    "--n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0 --always_save_checkpoint=True"
)
OURS = (
    "model.context_length=128",
    "model.n_layer=4",
    "model.n_head=2",
    "model.d_model=128",
    "train.batch_tokens=2048",
    "eval.tokens=111K",
    "sample.every_tokens=1B",
    "sample.prompts=ROMEO:",
    "checkpoint.every_seconds=1e6",
)
"""Edits of the demo's recipe, which is the modern one: no wider than nanoGPT's model, and of the same depth."""
EVALUATIONS = 9


def main() -> None:
    """Runs the peer, then ours, and records both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="a checkout of nanoGPT, or a bare clone of it")
    parser.add_argument(
        "--text", type=Path, help="Tiny Shakespeare, input.txt of char-rnn; by default the one that nanoGPT's prepare.py got"
    )
    parser.add_argument("edits", nargs="*", help="path=value edits of our settings, to try others")
    options = parser.parse_args()
    options.text = options.text or options.peer / "data" / "shakespeare_char" / "input.txt"
    if not options.text.is_file():
        parser.error(f"wanted Tiny Shakespeare, found nothing at {options.text}; name it with --text")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        peer = run_peer(options.peer, options.text, work)
        print(f"nanoGPT: {peer['val_loss']:.4f} (its own estimate {peer['own_estimate']:.4f}) in {peer['seconds']:.1f} s", flush=True)
        short, long = run_ours(options.text, work, peer["seconds"], options.edits)
    quick = short["evaluations"][-1]
    share = quick["seconds"] / peer["seconds"] if quick["val_loss"] <= peer["val_loss"] else float("inf")
    in_time = [row["val_loss"] for row in long["evaluations"] if row["seconds"] <= peer["seconds"]]
    record(
        "shakespeare",
        [
            bar("time of a run that ends at nanoGPT's final loss or below, as a share of nanoGPT's time", share, "<= 0.25"),
            bar("nats per character below nanoGPT in equal time", peer["val_loss"] - min(in_time), ">= 0.25"),
        ],
        [{"name": "nanoGPT", **peer}, {"name": "daybreak, a quarter of the time", **short}, {"name": "daybreak, equal time", **long}],
    )


def run_peer(source: Path, text: Path, work: Path) -> dict[str, Any]:
    """Trains nanoGPT as it is, and scores its last checkpoint on the whole validation text."""
    checkout = work / "nanogpt"
    if (source / "train.py").is_file():
        shutil.copytree(source, checkout, ignore=shutil.ignore_patterns(".git"))
    else:
        checkout.mkdir()
        archive = subprocess.run(["git", "-C", source, "archive", "HEAD"], check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", checkout], input=archive, check=True)
    data = checkout / "data" / "shakespeare_char"
    shutil.copy(text, data / "input.txt")
    (data / "prepare.py").write_text((data / "prepare.py").read_text().replace("import requests", ""))  # needed only to download the text
    subprocess.run([sys.executable, data / "prepare.py"], cwd=checkout, check=True, capture_output=True)
    started = time.monotonic()
    log = subprocess.run(
        [sys.executable, "train.py", *PEER_ARGUMENTS.split()], cwd=checkout, check=True, capture_output=True, text=True
    ).stdout
    seconds = time.monotonic() - started
    estimates = [float(loss) for loss in re.findall(r"val loss (\d+\.\d+)", log)]
    val_loss = score_peer(checkout, np.fromfile(data / "val.bin", dtype=np.uint16))
    return {"seconds": round(seconds, 2), "val_loss": round(val_loss, 4), "own_estimate": estimates[-1]}


@torch.no_grad()
def score_peer(checkout: Path, tokens: np.ndarray[Any, Any]) -> float:
    """Mean nats over all validation characters but the first, in consecutive windows of its own block size."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    saved = torch.load(checkout / "out-shakespeare-char" / "ckpt.pt", weights_only=True)
    model = module.GPT(module.GPTConfig(**saved["model_args"]))
    model.load_state_dict(saved["model"])
    model.eval()
    block = saved["model_args"]["block_size"]
    ids = torch.from_numpy(tokens.astype(np.int64))
    total = 0.0
    for start in range(0, len(ids) - 1, block):
        window = ids[start : start + block + 1]
        logits, _ = model(window[None, :-1], window[None, 1:])
        total += float(F.cross_entropy(logits[0], window[1:], reduction="sum"))
    return total / (len(ids) - 1)


def run_ours(text: Path, work: Path, seconds: float, edits: list[str]) -> list[dict[str, Any]]:
    """Trains ours for nearly a quarter of `seconds` and for nearly all, start-up included, each with a schedule of its own length.

    How many tokens that is comes from the speed of a run before: a short trial, then the quarter.
    """
    command = [sys.executable, "-m", "daybreak"]
    tokenizer = ["--tokenizer", "chars", "--val-fraction", "0.1", "--split", "tail"]
    subprocess.run([*command, "data", "prepare", text, "--out", work / "data", *tokenizer], check=True, capture_output=True)
    settings = [f"data.dir={work / 'data'}", *OURS, *edits]
    told, started = train([*command, "train", "demo"], work / "trial", [*settings, "train.train_tokens=150K", "eval.every_tokens=1B"])
    rows = []
    for name, share, evaluations in (("quarter", 0.2, 1), ("whole", 0.95, EVALUATIONS)):
        tokens = tokens_for(share * seconds, told, started, evaluations)
        length = [f"train.train_tokens={tokens}", f"eval.every_tokens={tokens // evaluations if evaluations > 1 else '1B'}"]
        told, started = train([*command, "train", "demo"], work / name, [*settings, *length])
        seen = [
            {"seconds": round(event["time"] - started, 2), "tokens": event["tokens"], "val_loss": event["val_loss"]}
            for event in told
            if event["event"] in ("eval", "end")
        ]
        rows.append({"parameters": told[0]["parameters"], "settings": settings[1:], "evaluations": seen})
    return rows


def tokens_for(seconds: float, told: list[dict[str, Any]], started: float, evaluations: int) -> int:
    """How many tokens a run of so many seconds trains on, as fast as one whose events are `told`."""
    steps = [event for event in told if event["event"] == "step"]
    speed = (steps[-1]["tokens"] - steps[10]["tokens"]) / (steps[-1]["time"] - steps[10]["time"])
    evaluation = told[-1]["time"] - steps[-1]["time"]
    beginning = steps[10]["time"] - started - steps[10]["tokens"] / speed
    return int(speed * (seconds - beginning - evaluations * evaluation))


def train(command: list[str], out: Path, edits: list[str]) -> tuple[list[dict[str, Any]], float]:
    """Runs a training in a fresh process; its events, and the time at which the process was started."""
    started = time.time()
    subprocess.run([*command, "--out", str(out), "--quiet", *edits], check=True, env=os.environ, stdout=subprocess.DEVNULL)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()], started


if __name__ == "__main__":
    main()

"""Two nodes on one machine, one of which dies in the middle: what the other does, how long it takes, and whether the run is the same.

    python benchmarks/two_nodes.py                          two torchrun agents on the loopback device
    python benchmarks/two_nodes.py --namespaces n0,n1       the same in two network namespaces that reach each other, as root:

        ip netns add n0; ip netns add n1
        ip link add v0 netns n0 type veth peer name v1 netns n1
        ip -n n0 addr add 10.77.0.1/24 dev v0; ip -n n0 link set v0 up; ip -n n0 link set lo up
        ip -n n1 addr add 10.77.0.2/24 dev v1; ip -n n1 link set v1 up; ip -n n1 link set lo up

A node dies by SIGKILL to torchrun and to all that it started; with --unplug, which needs namespaces, its network goes first, so that the
other hears no farewell, as after a power cut. It is then started again by the same command. The run is a tiny model on the text of
docs/, on CPUs over gloo; how fast it is is of no interest, how long it waits is.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from record import bar, record

HOME = Path(__file__).parents[1]
SHARED_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Without it torch's agent tells where to meet in the first round only, and a node that comes later waits for that in vain (torch 2.13,
dynamic_rendezvous.py, `_bootstrap_store_info`)."""
STEPS = 1200
RUN = [
    *("model.context_length=32", "model.n_layer=2", "model.n_head=2", "model.d_model=32", "model.dropout=0.1"),
    *("train.batch_tokens=256", f"train.train_tokens={256 * STEPS}", "train.warmup_tokens=2560", "sample.every_tokens=1M"),
    *("eval.every_tokens=1M", "checkpoint.every_seconds=1", "machine.device=cpu", "machine.precision=fp32", "machine.threads=1"),
    "machine.patience=20",
]
_ports = itertools.count(29500 + os.getpid() % 1000)


class Node:
    """One torchrun agent and its processes."""

    def __init__(
        self, number: int, run: Path, data: Path, port: int, processes: int, layout: str, namespaces: list[str], wait: int
    ) -> None:
        self.namespace = namespace = namespaces[number] if namespaces else ""
        self.log = run.parent / f"{run.name}-node{number}.log"
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HOME), SHARED_STORE: "1"}
        host, local = "127.0.0.1", []
        if namespace:
            self.address = _address(namespace)
            host = _address(namespaces[0])[1]
            self.environment["GLOO_SOCKET_IFNAME"], own = self.address
            local = ["--local-addr", own]
        # Between machines torchrun sees by the address which node is the first; here both have it, or none.
        first = f"is_host={number == 0}".lower()
        rendezvous = f"--rdzv-backend c10d --rdzv-endpoint {host}:{port} --rdzv-id {run.name} --rdzv-conf join_timeout={wait},{first}"
        self.command = [
            *(["ip", "netns", "exec", namespace] if namespace else []),
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", str(processes), "--max-restarts", "3"),
            *(*rendezvous.split(), *local, "-m", "daybreak", "train", "demo", "--quiet", "--out", str(run), f"data.dir={data}"),
            *(f"machine.parallel={layout}", *RUN),
        ]
        self.start()

    def start(self) -> None:
        """Starts it, or starts it again; its log goes on."""
        with self.log.open("a") as log:
            self.agent = subprocess.Popen(
                self.command, env=self.environment, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def network(self, state: str) -> None:
        """Plugs it in, `up`, or unplugs it, `down`."""
        device, _ = self.address
        subprocess.run(["ip", "-n", self.namespace, "link", "set", device, state], check=True)

    def kill(self) -> None:
        """Without a word."""
        for process in [self.agent.pid, *_descendants(self.agent.pid)]:
            os.kill(process, signal.SIGKILL)
        self.agent.wait()

    def said(self, *wanted: str) -> str:
        """The first line of its log that has one of these words; '' if none has."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return next((line.strip() for line in lines if any(word in line for word in wanted)), "")


def _address(namespace: str) -> tuple[str, str]:
    """A namespace's network device and address."""
    told = subprocess.run(["ip", "-n", namespace, "-json", "addr"], check=True, capture_output=True, text=True).stdout
    for device in json.loads(told):
        for row in device["addr_info"]:
            if row["family"] == "inet" and device["ifname"] != "lo":
                return device["ifname"], row["local"]
    raise SystemExit(f"{namespace}: wanted a namespace with an IPv4 address, found none")


def _descendants(process: int) -> list[int]:
    """All that a process started, and they."""
    path = Path(f"/proc/{process}/task/{process}/children")
    children = [int(word) for word in path.read_text().split()] if path.exists() else []
    return children + [below for child in children for below in _descendants(child)]


def _events(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _resumed(run: Path) -> int | None:
    """The step that the run went on from; None if it did not."""
    return next((event["step"] for event in _events(run) if event["event"] == "resume"), None)


def _wait(what: str, done: Callable[[], object], nodes: list[Node], most: float = 300) -> float:
    """Until something is so; the seconds that it took."""
    began = time.monotonic()
    while not done():
        if time.monotonic() - began > most:
            logs = "\n".join(f"--- {node.log}\n{node.log.read_text()[-3000:]}" for node in nodes)
            raise TimeoutError(f"waited {most:.0f} s for {what}\n{logs}")
        time.sleep(0.05)
    return time.monotonic() - began


def _ended(nodes: list[Node]) -> bool:
    return all(node.agent.poll() is not None for node in nodes)


def trial(folder: Path, victim: int | None, processes: int, layout: str, namespaces: list[str], wait: int, unplug: bool) -> dict[str, Any]:
    """One run; the node `victim` dies in its middle and comes back."""
    run = folder / f"{layout}-{processes}-{'straight' if victim is None else f'node{victim}'}"
    port = next(_ports)
    nodes = [Node(number, run, folder / "data", port, processes, layout, namespaces, wait) for number in (0, 1)]
    row: dict[str, Any] = {"layout": layout, "processes": 2 * processes, "killed": "none" if victim is None else f"node {victim}"}
    row["network"] = ("namespaces" if namespaces else "loopback") + (", unplugged" if unplug else "")
    try:
        if victim is not None:
            middle = f"step {STEPS // 3}"
            _wait(middle, lambda: any(event["step"] > STEPS // 3 for event in _events(run)) or _ended(nodes), nodes)
            other = nodes[1 - victim]
            if unplug:
                nodes[victim].network("down")
            nodes[victim].kill()
            row["step_when_killed"] = _events(run)[-1]["step"]
            began = time.monotonic()
            with contextlib.suppress(TimeoutError):
                _wait("a lost process to be noticed", lambda: other.said("lost the others"), nodes, 120)
                row["seconds_to_notice"] = time.monotonic() - began
            row["said"] = other.said("lost the others").rpartition("error: ")[2]
            # Its agent gives up, if it does, once it misses what the other kept: at once, or where nothing answers after a minute.
            with contextlib.suppress(TimeoutError):
                _wait("its agent to end", lambda: _ended([other]), nodes, 90 if unplug else 10)
            row["other_agent"] = f"ended with {other.agent.returncode}" if _ended([other]) else "waits" if row["said"] else "hangs"
            if row["other_agent"] == "hangs":
                other.kill()
            if unplug:
                nodes[victim].network("up")
            for node in nodes:
                if node.agent.poll() is not None:
                    node.start()
            row["seconds_to_go_on"] = _wait("the run to go on", lambda: _resumed(run) is not None or _ended(nodes), nodes)
            row["went_on_from"] = _resumed(run)
        _wait("the end", lambda: _ended(nodes), nodes)
    finally:
        for node in nodes:
            if node.agent.poll() is None:
                node.kill()
            if unplug:
                node.network("up")
    row["statuses"] = [node.agent.returncode for node in nodes]
    row["finished"] = (run / "DONE").exists()
    row["model"] = (run / "model" / "model.safetensors").read_bytes() if row["finished"] else b""
    return {key: round(value, 1) if isinstance(value, float) else value for key, value in row.items()}


def main() -> None:
    """Runs the trials and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--namespaces", type=lambda text: text.split(","), default=[])
    parser.add_argument("--unplug", action="store_true")
    parser.add_argument("--wait", type=int, default=120, help="seconds that a node waits for the others (join_timeout)")
    given = parser.parse_args()
    if given.unplug and not given.namespaces:
        parser.error("--unplug: wanted --namespaces too")
    rows, wrong = [], 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare = [
            sys.executable,
            "-m",
            "daybreak",
            "data",
            "prepare",
            str(HOME / "docs"),
            "--tokenizer",
            "bytes",
            "--out",
            str(folder / "data"),
        ]
        subprocess.run(prepare, check=True, capture_output=True, cwd=HOME)
        for layout, processes in (("ddp", 1), ("hsdp", 2)):
            straight = trial(folder, None, processes, layout, given.namespaces, given.wait, given.unplug)
            for victim in (1, 0):
                row = trial(folder, victim, processes, layout, given.namespaces, given.wait, given.unplug)
                row["same_weights"] = bool(row["model"]) and row["model"] == straight["model"]
                wrong += not row["same_weights"]
                rows.append({key: value for key, value in row.items() if key != "model"})
                print(shlex.join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    name = "two_nodes" + ("_namespaces" if given.namespaces else "") + ("_unplugged" if given.unplug else "")
    record(name, [bar("runs that ended in other weights after a node died", wrong, "<= 0")], rows)


if __name__ == "__main__":
    main()

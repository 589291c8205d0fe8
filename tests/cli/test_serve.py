"""`daybreak serve` as people start and end it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from daybreak.cli import main
from daybreak.cli.serve import _names


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
def test_it_starts_answers_drains_and_ends(run_dir: Path) -> None:
    command = [sys.executable, "-m", "daybreak", "serve", str(run_dir), "--port", "0", "--device", "cpu", "--dtype", "fp32", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "no_proxy": "*"}
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["models"] == ["tiny"]
        body = json.dumps({"prompt": "x", "max_tokens": 15, "ignore_eos": True, "n": 100, "stream": True}).encode()
        request = urllib.request.Request(f"{told['url']}/v1/completions", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            first = response.readline()
            process.send_signal(signal.SIGTERM)  # what is under way is told to its end
            rest = response.read()
        assert first.startswith(b"data: ")
        assert rest.endswith(b"data: [DONE]\n\n")
        assert b'"error"' not in rest
        assert process.wait(60) == 0
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
        assert lines == [
            f"serving tiny (fp32) at {told['url']} (the page) and {told['url']}/v1 (OpenAI's interface); Ctrl-C stops",
            "stopped",
        ]
    finally:
        process.kill()
        process.communicate()


def test_a_port_that_is_taken_is_told_at_once(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        begun = time.monotonic()
        assert main(["serve", str(run_dir), "--port", str(port)]) == 2
        assert time.monotonic() - begun < 20
    assert (
        capsys.readouterr().err == f"error: --port {port}: another program listens there already; give another, or 0 for any that is free\n"
    )


def test_what_cannot_be_served_is_told(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "nowhere", "--port", "0"]) == 2
    assert capsys.readouterr().err == "error: nowhere: no such folder, wanted a run's folder\n"
    assert main(["serve", str(run_dir), str(run_dir), "--port", "0"]) == 2
    assert capsys.readouterr().err == f"error: {run_dir}: wanted each folder once, came twice\n"
    assert main(["serve", str(run_dir), "--port", "0", "--host", "not.a.host.invalid"]) == 2
    assert capsys.readouterr().err.startswith("error: --host not.a.host.invalid: no such address here (")
    assert main(["serve", str(run_dir), "--port", "0", "--dtype", "int9"]) == 2
    assert "dtype: wanted one of auto, fp32, " in capsys.readouterr().err
    assert main(["serve", str(run_dir), "--port", "99999"]) == 2
    assert "--port" in capsys.readouterr().err


def test_names(tmp_path: Path) -> None:
    assert _names([tmp_path / "a" / "dawn", tmp_path / "dusk" / "model"]) == ["dawn", "dusk"]
    assert _names([tmp_path / "a" / "dawn", tmp_path / "b" / "dawn"]) == ["a/dawn", "b/dawn"]

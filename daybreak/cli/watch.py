"""`daybreak watch`: a page on this machine that follows runs while they train."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daybreak.cli import speak

if TYPE_CHECKING:
    from daybreak.watch.server import Server, Watch

PORT = 7007
_PORTS_TRIED = 20


def watch(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Runs, or folders of runs; new ones appear by themselves.")],
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="The port; 7007 or the next free one by default, 0 takes any.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the page's address as one JSON object.")] = False,
) -> None:
    """Follow runs on a live page: curves, samples, events. It only reads, and only this machine can open it."""
    from daybreak import files
    from daybreak.cli.references import references
    from daybreak.watch.server import Watch

    if wrong := [folder for folder in folders if not folder.is_dir()]:
        raise files.FileProblem("\n".join(f"{folder}: wanted a run's folder or a folder of runs, found none" for folder in wrong))
    with contextlib.suppress(AttributeError, OSError):  # whoever trains on the same processor comes first
        os.nice(10)
    with Watch(folders, references()) as watching:
        server = _server(watching, port)
        with server:
            found = [follower.name for follower in watching.followers.values()]
            runs = f"{len(found)} run{'' if len(found) == 1 else 's'}"
            tunnel = f"ssh -L {server.server_port}:localhost:{server.server_port} HERE"
            said = f"{server.address}   {runs}; Ctrl-C ends it. From another machine: {tunnel}"
            speak.result({"url": server.address, "runs": found}, as_json, said)
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever(poll_interval=0.2)


def _server(watching: Watch, port: int | None) -> Server:
    from daybreak import files
    from daybreak.watch.server import Server

    problem = OSError("none is free")
    for tried in range(PORT, PORT + _PORTS_TRIED) if port is None else (port,):
        try:
            return Server(watching, tried)
        except OSError as error:
            problem = error
    wanted = f"--port {port}" if port is not None else f"ports {PORT} to {PORT + _PORTS_TRIED - 1}"
    raise files.FileProblem(f"{wanted}: cannot be listened on ({problem.strerror or problem}); name another --port")

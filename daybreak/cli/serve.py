"""`daybreak serve`: models that answer over HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daybreak.cli import speak

if TYPE_CHECKING:
    from daybreak.serve.hosting import Hosted

DTYPE = "How it computes: auto, fp32, bf16; on a CPU also fp16w, int8 and int4, which are quicker."
_DRAFT = "A smaller model of the same tokenizer that guesses ahead for them; texts stay the same. The text itself is looked up without it."
_CORS = "An origin such as https://example.org whose pages may ask, or * for all; repeat it for several. None by default."


def serve(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Runs' folders, or GPT-2s in Hugging Face's form.")],
    host: Annotated[str, typer.Option(help="127.0.0.1 for this machine alone, 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any that is free.", min=0, max=65535)] = 8000,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help=DTYPE)] = "auto",
    draft: Annotated[Path | None, typer.Option(metavar="RUN_DIR", help=_DRAFT)] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="DAYBREAK_API_KEY", help="What clients must know; nothing lets in everybody.")
    ] = None,
    cors: Annotated[list[str] | None, typer.Option(help=_CORS)] = None,
    max_concurrent: Annotated[int, typer.Option(help="How many requests are written at once.", min=1, max=4096)] = 32,
    max_waiting: Annotated[int, typer.Option(help="How many more may wait; the next is told to come again.", min=0, max=65536)] = 256,
    max_body: Annotated[float, typer.Option(help="The largest body of a request, in MiB.", min=0.001, max=1024)] = 2.0,
    max_seconds: Annotated[float, typer.Option(help="The longest that one answer may take.", min=0.1, max=86400)] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address and the models as one JSON object, once they answer.")] = False,
) -> None:
    """Serve models as OpenAI's server does, with a page to play with them."""
    from daybreak import loading, machine
    from daybreak.inference.requests import Limits
    from daybreak.serve import listening
    from daybreak.serve.app import Policy, make_app
    from daybreak.serve.hosting import Hosts
    from daybreak.serve.hosting import host as host_model

    machine.prepare_serving()
    socket = listening.listen(host, port)  # before the models, which take long
    try:
        names = _names(folders)
        limits = Limits(running=max_concurrent, waiting=max_waiting)
        smaller = None if draft is None else loading.load(draft, device=device, dtype=dtype)
        models = [loading.load(folder, device=device, dtype=dtype) for folder in folders]
        hosted = [host_model(name, model, limits, smaller) for name, model in zip(names, models, strict=True)]
        policy = Policy(api_key or None, tuple(cors or ()), int(max_body * 2**20), max_seconds)
        where = listening.url(socket)
        app = make_app(Hosts(hosted), policy, say=speak.say, ready=lambda: _ready(where, hosted, as_json, host, api_key))
        interrupted = listening.run(app, socket)
    finally:
        socket.close()
    speak.say("stopped")
    if interrupted:
        raise typer.Exit(130)


def _ready(where: str, hosted: Sequence[Hosted], as_json: bool, host: str, api_key: str | None) -> None:
    told = ", ".join(f"{one.name} ({one.model.dtype})" for one in hosted)
    open_to_all = "" if host in ("127.0.0.1", "localhost", "::1") or api_key else "; without --api-key it is open to the whole network"
    speak.say(f"serving {told} at {where} (the page) and {where}/v1 (OpenAI's interface){open_to_all}; Ctrl-C stops")
    if as_json:
        speak.result({"url": where, "models": [one.name for one in hosted]}, True, "")


def _names(folders: Sequence[Path]) -> list[str]:
    """What each is called: its folder's name, with its parent's where two are the same. Raises ConfigError for one given twice."""
    from daybreak import config

    places = [folder.resolve() for folder in folders]
    if twice := [str(folder) for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]:
        raise config.ConfigError([f"{twice[0]}: wanted each folder once, came twice"])
    places = [place.parent if place.name == "model" else place for place in places]
    count = Counter(place.name for place in places)
    names = [place.name if count[place.name] == 1 else f"{place.parent.name}/{place.name}" for place in places]
    return names if len(set(names)) == len(names) else [str(place) for place in places]

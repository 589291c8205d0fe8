"""`daybreak sample`: what a trained model writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from daybreak.cli import speak


def sample(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, or a GPT-2 in Hugging Face's form.")],
    prompt: Annotated[str, typer.Argument(help="How the text begins; nothing begins a new one.")] = "",
    temperature: Annotated[float, typer.Option(help="Below 1 bolder, above 1 wilder, 0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Keep only the k likeliest tokens; 0 keeps all.")] = 50,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens that together have this probability; 1 keeps all.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed writes the same text.")] = None,
    max_tokens: Annotated[int, typer.Option(help="How many tokens to write at most.")] = 200,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the text as one JSON object.")] = False,
) -> None:
    """Let a model continue a text."""
    from daybreak import config, loading
    from daybreak.inference.sampling import Sampling

    problems = config.check(Sampling(temperature, None, top_p))
    if top_k < 0:
        problems.append(f"top_k: wanted 0 or more, came {top_k}")
    if max_tokens < 1:
        problems.append(f"max_tokens: wanted at least 1, came {max_tokens}")
    if seed is not None and not 0 <= seed < 2**63:
        problems.append(f"seed: wanted 0 or more and less than 2^63, came {seed}")
    if problems:
        raise config.ConfigError(["--" + problem.replace("_", "-", 1).replace(", or none,", ",") for problem in problems])
    model = loading.load(folder, device=device)
    written = model.write(
        prompt, max_tokens=max_tokens, temperature=temperature, top_k=top_k or None, top_p=None if top_p == 1 else top_p, seed=seed
    )
    pieces = [next(written, "")]  # a prompt that cannot be read is told before anything is written
    if not as_json:
        speak.write(prompt + pieces[0])
    for piece in written:
        pieces.append(piece)
        if not as_json:
            speak.write(piece)
    text = "".join(pieces)
    speak.result({"text": text, "tokens": len(model.tokenizer.encode(text))}, as_json, "")

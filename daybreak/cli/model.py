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
    min_p: Annotated[float, typer.Option(help="Keep tokens at least this share as likely as the likeliest; 0 keeps all.")] = 0.0,
    typical_p: Annotated[float, typer.Option(help="Keep the least surprising tokens of this probability; 1 keeps all.")] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, what is in the prompt or text becomes less likely.")] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="Taken from the logit of what the text has already.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="Taken as many times as the text has it.")] = 0.0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given many times.")] = None,
    n: Annotated[int, typer.Option("--n", help="How many texts to write, with the seeds that follow the first.")] = 1,
    seed: Annotated[int | None, typer.Option(help="The same seed writes the same text.")] = None,
    max_tokens: Annotated[int, typer.Option(help="How many tokens to write at most.")] = 200,
    dtype: Annotated[str, typer.Option(help="The number format: auto, fp32, bf16, fp16w, int8, int4; fewer bits are faster.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the text as one JSON object.")] = False,
) -> None:
    """Let a model continue a text."""
    import secrets

    from daybreak import config, loading
    from daybreak.inference.dtypes import DTYPES
    from daybreak.inference.sampling import Sampling

    sampling = Sampling(temperature, None, top_p, min_p, typical_p, repetition_penalty, presence_penalty, frequency_penalty)
    problems = config.check(sampling)
    if top_k < 0:
        problems.append(f"top_k: wanted 0 or more, came {top_k}")
    if "" in (stop or ()):
        problems.append("stop: wanted a text of at least one character, came an empty one")
    if dtype not in DTYPES:
        problems.append(f"dtype: wanted one of {', '.join(DTYPES)}, came {dtype}{config.closest(dtype, DTYPES)}")
    if n < 1:
        problems.append(f"n: wanted at least 1, came {n}")
    if max_tokens < 1:
        problems.append(f"max_tokens: wanted at least 1, came {max_tokens}")
    if seed is not None and not 0 <= seed < 2**63:
        problems.append(f"seed: wanted 0 or more and less than 2^63, came {seed}")
    if problems:
        raise config.ConfigError(["--" + problem.replace("_", "-", 1).replace(", or none,", ",") for problem in problems])
    model = loading.load(folder, device=device, dtype=dtype)
    first = secrets.randbits(62) if seed is None else seed
    texts = []
    for number in range(n):
        written = model.write(
            prompt,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k or None,
            top_p=None if top_p == 1 else top_p,
            min_p=min_p or None,
            typical_p=None if typical_p == 1 else typical_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            stop=tuple(stop or ()),
            seed=(first + number) % 2**63,
        )
        pieces = [next(written, "")]  # a prompt that cannot be read is told before anything is written
        if not as_json:
            speak.write(("\n\n" if number else "") + prompt + pieces[0])
        for piece in written:
            pieces.append(piece)
            if not as_json:
                speak.write(piece)
        texts.append("".join(pieces))
    told: dict[str, object] = {"text": texts[0], "tokens": len(model.tokenizer.encode(texts[0]))}
    speak.result(told if n == 1 else {**told, "texts": texts}, as_json, "")

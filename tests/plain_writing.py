"""A tiny model, and the plainest way to write: one text alone, read anew for every token."""

import codecs
import dataclasses
from functools import cache

import torch

from daybreak.inference.randomness import uniforms
from daybreak.inference.requests import Request
from daybreak.inference.sampling import add_bias, draw, penalize, probabilities
from daybreak.inference.stopping import StopStrings
from daybreak.model.config import GPTConfig
from daybreak.model.init import build

CONFIG = GPTConfig(vocab_size=50, context_length=48, n_layer=2, n_head=2, d_model=16, init_std=0.3)
EOT = 49


@cache
def model_of(pattern=("dense",), band=5):
    return build(dataclasses.replace(CONFIG, attention_pattern=pattern, attention_band=band), seed=1).eval()


def token_bytes(token):
    return b"" if token == EOT else bytes([97 + token % 4]) if token < 40 else "é".encode()[token % 2 : token % 2 + 1]


@torch.no_grad()
def plainly(request: Request, model) -> tuple[list[int], str, str]:
    """Tokens, text and why it ends."""
    tokens, context = list(request.tokens), model.config.context_length
    raw, sampling = b"", request.sampling
    stops = StopStrings(request.stop)
    shown, decoder = "", codecs.getincrementaldecoder("utf-8")("replace")
    for _ in range(request.max_tokens):
        logits = model(torch.tensor([tokens]))[:, -1].float()
        logits = add_bias(penalize(logits, sampling, [request.tokens], [tokens[len(request.tokens) :]]), sampling.logit_bias)
        token = int(draw(probabilities(logits, sampling), uniforms([request.seed], [len(tokens)])))
        tokens.append(token)
        if token == EOT and not request.ignore_eot:
            rest = stops.push(decoder.decode(b"", final=True))
            return tokens, shown + rest + ("" if stops.stopped else stops.flush()), "stop"
        raw += token_bytes(token)
        shown += stops.push(decoder.decode(token_bytes(token)))
        if stops.stopped:
            return tokens, shown, "stop"
        if len(tokens) > context:
            break
    rest = stops.push(decoder.decode(b"", final=True))
    return tokens, shown + rest + ("" if stops.stopped else stops.flush()), "length"

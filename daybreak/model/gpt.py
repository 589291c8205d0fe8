"""GPT-2 and GPT-3: tokens in, logits out, and nothing else.

The forward pass is three steps, `embed`, `blocks`, `unembed`, and whoever wants to look inside, stop early or feed something else
in calls the three himself.

B batch, T tokens, C d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daybreak.model.attention import Attention, Kernel, automatic
from daybreak.model.config import GPTConfig
from daybreak.model.kv_cache import KVCache


class MLP(nn.Module):
    """Up to four times the width, GELU in its tanh form, and down again (GPT-2 `mlp`)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, 4 * config.d_model)
        self.down = nn.Linear(4 * config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        out: Tensor = self.down(F.gelu(self.up(x), approximate="tanh"))
        return out


class Block(nn.Module):
    """Attention, then MLP, each normalised before and added to the residual stream after (GPT-2 paper, section 2.3)."""

    def __init__(self, config: GPTConfig, kernel: Kernel, band: int | None) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model, config.layer_norm_epsilon)
        self.attention = Attention(config, kernel, band)
        self.mlp_norm = nn.LayerNorm(config.d_model, config.layer_norm_epsilon)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, layer: int = 0, kv_cache: KVCache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.drop(self.attention(self.attention_norm(x), layer, kv_cache))
        out: Tensor = x + self.drop(self.mlp(self.mlp_norm(x)))
        return out


class GPT(nn.Module):
    """A GPT-2 or GPT-3 of any size. The weights of the head are the token embedding's (tied)."""

    def __init__(self, config: GPTConfig, kernel: Kernel = automatic) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        self.position_embedding = nn.Embedding(config.context_length, config.d_model)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, kernel, config.band(layer)) for layer in range(config.n_layer))
        self.norm = nn.LayerNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, tokens: Tensor, kv_cache: KVCache | None = None, unembed: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(B, T) token ids -> (B, T, V) logits of the next token at every position.

        With a cache, `tokens` continue what is in it and are added to it. `unembed` takes the place of the last step. Raises ValueError
        beyond the context length.
        """
        x = self.embed(tokens, None if kv_cache is None else kv_cache.positions(tokens.shape[1]))
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, kv_cache)
        if kv_cache is not None:
            kv_cache.advance(tokens.shape[1])
        return (unembed or self.unembed)(x)

    def embed(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """(B, T) token ids at `positions`, (T,) or (B, T), the first T by default -> (B, T, C)."""
        if positions is None:
            if tokens.shape[1] > self.config.context_length:
                raise ValueError(f"tokens: wanted at most context_length = {self.config.context_length} positions, came {tokens.shape[1]}")
            positions = torch.arange(tokens.shape[1], device=tokens.device)
        x: Tensor = self.drop(self.token_embedding(tokens) + self.position_embedding(positions))
        return x

    def unembed(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, V). Rows that only round the vocabulary up are cut off: they never win and are in no loss."""
        return F.linear(self.norm(x), self.token_embedding.weight)[..., : self.config.tokens]

"""GPT-2 and GPT-3, and what the field has learned since: tokens in, logits out, and nothing else.

The forward pass is three steps, `embed`, `blocks`, `unembed`, and whoever wants to look inside, stop early or feed something else
in calls the three himself. What differs from GPT-2 is chosen at construction, part by part; the defaults are GPT-2's.

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
from daybreak.model.mlp import MLPS
from daybreak.model.norms import NORMS
from daybreak.model.rotary import Rotary
from daybreak.model.shared import Shared
from daybreak.model.shortcuts import embedding_shortcut


class Block(nn.Module):
    """Attention, then MLP, each normalised before and added to the residual stream after (GPT-2 paper, section 2.3)."""

    def __init__(self, config: GPTConfig, kernel: Kernel, layer: int) -> None:
        super().__init__()
        self.shortcut = embedding_shortcut(config)
        self.attention_norm = NORMS[config.norm](config)
        self.attention = Attention(config, kernel, layer)
        self.mlp_norm = NORMS[config.norm](config)
        self.mlp = MLPS[config.activation](config)
        self.drop = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x: Tensor, shared: Shared) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = self.shortcut(x, shared)
        x = x + self.drop(self.attention(self.attention_norm(x), shared))
        out: Tensor = x + self.drop(self.mlp(self.mlp_norm(x)))
        return out


class GPT(nn.Module):
    """A GPT of any size. The weights of the head are the token embedding's (tied), unless it has its own."""

    def __init__(self, config: GPTConfig, kernel: Kernel = automatic) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = _rows(config.padded_vocab_size, config.d_model)
        learned = config.position == "learned"
        self.position_embedding = _rows(config.context_length, config.d_model) if learned else None
        self.rotary = None if learned else Rotary(config)
        self.embedding_norm = NORMS[config.norm](config) if config.embedding_norm else nn.Identity()
        self.drop = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.blocks = nn.ModuleList(Block(config, kernel, layer) for layer in range(config.n_layer))
        self.norm = NORMS[config.norm](config)
        self.head = None if config.tied_head else nn.Linear(config.d_model, config.padded_vocab_size, bias=False)
        self.narrow_cache: torch.dtype | None = None
        """What keys and values are kept in, where that is less than the embedding's own format."""

    def forward(self, tokens: Tensor, kv_cache: KVCache | None = None, unembed: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(B, T) token ids -> (B, T, V) logits of the next token at every position.

        With a cache, `tokens` continue what is in it and are added to it. `unembed` takes the place of the last step. Raises ValueError
        beyond the context length.
        """
        x, shared = self.embed(tokens, kv_cache)
        for block in self.blocks:
            x = block(x, shared)
        if kv_cache is not None:
            kv_cache.advance(tokens.shape[1])
        return (unembed or self.unembed)(x)

    def embed(self, tokens: Tensor, kv_cache: KVCache | None = None) -> tuple[Tensor, Shared]:
        """(B, T) token ids -> (B, T, C), and what every block is given besides. Raises ValueError beyond the context length."""
        positions = self._positions(tokens) if kv_cache is None else kv_cache.positions(tokens.shape[1])  # (T,) or (B, T)
        x: Tensor = self.token_embedding(tokens)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        x = self.drop(self.embedding_norm(x))
        rotation = None if self.rotary is None else self.rotary(positions)
        return x, Shared(kv_cache, rotation, x if self.config.embedding_shortcut else None)

    def unembed(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, V). Rows that only round the vocabulary up are cut off: they never win and are in no loss."""
        x = self.norm(x)
        logits = (F.linear(x, self.token_embedding.weight) if self.head is None else self.head(x))[..., : self.config.tokens]
        return logits if self.config.logit_softcap is None else softcapped(logits, self.config.logit_softcap)

    @property
    def cache_dtype(self) -> torch.dtype:
        """What its keys and values are best kept in."""
        return self.narrow_cache or self.token_embedding.weight.dtype

    @property
    def head_weight(self) -> Tensor:
        """(padded V, C) what the last states are multiplied with."""
        return (self.token_embedding if self.head is None else self.head).weight

    def _positions(self, tokens: Tensor) -> Tensor:
        T = tokens.shape[1]
        if self.config.context_length < T:
            raise ValueError(f"tokens: wanted at most context_length = {self.config.context_length} positions, came {T}")
        return torch.arange(T, device=tokens.device)


def _rows(count: int, width: int) -> nn.Embedding:
    """`nn.Embedding(count, width)` drawn evenly: for a normal distribution on the meta device torch imports its compiler."""
    return nn.Embedding.from_pretrained(torch.empty(count, width).uniform_(), freeze=False)  # type: ignore[no-untyped-call, no-any-return]


def softcapped(logits: Tensor, cap: float) -> Tensor:
    """cap tanh(logits / cap), in fp32 at least, as 16 bits have few digits for large logits (Gemma 2 report, section 2)."""
    return torch.tanh(logits.to(torch.promote_types(logits.dtype, torch.float32)) / cap) * cap

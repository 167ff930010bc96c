"""Blocks shared by the transformer families: plain modules, and the layers they consist of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces.blocks import ACTIVATIONS
from search_spaces.genes import Condition
from search_spaces.layers import LayerSpec, Size
from search_spaces.supernet import ChannelGroup

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one attention, each (batch, heads, tokens, head size)."""


class Attention(nn.Module):
    """Multi-head attention: query, key and value projections to `inner` features, and an output projection.

    Args:
        dim: features of the queries' input and of the output.
        inner: features of all heads together; a multiple of `heads`.
        heads: number of heads; scores are scaled by (inner / heads) ** -0.5.
        memory: features of what is attended to; `dim` by default.
        dropout: of the attention weights, in training.
    """

    def __init__(self, dim: int, inner: int, *, heads: int, memory: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        memory = dim if memory is None else memory
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(dim, inner)
        self.key = nn.Linear(memory, inner)
        self.value = nn.Linear(memory, inner)
        self.output = nn.Linear(inner, dim)

    def _split(self, x: Tensor) -> Tensor:
        batch, tokens, features = x.shape
        return x.view(batch, tokens, self.heads, features // self.heads).transpose(1, 2)

    def keys_values(self, memory: Tensor) -> KeyValue:
        """Returns keys and values of what is attended to, (batch, tokens, memory)."""
        return self._split(self.key(memory)), self._split(self.value(memory))

    def attend(self, x: Tensor, keys_values: KeyValue, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """Returns (batch, tokens, dim).

        Args:
            x: where the queries come from, (batch, tokens, dim).
            keys_values: from `keys_values`.
            mask: boolean, True = may be attended to; broadcast to (batch, heads, queries, keys).
            causal: token i attends to the first i + 1 keys only.
        """
        dropout = self.dropout if self.training else 0.0
        heads = F.scaled_dot_product_attention(
            self._split(self.query(x)), *keys_values, attn_mask=mask, dropout_p=dropout, is_causal=causal
        )
        out: Tensor = self.output(heads.transpose(1, 2).flatten(2))
        return out

    def forward(self, x: Tensor, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """Returns self-attention over `x`, (batch, tokens, dim)."""
        return self.attend(x, self.keys_values(x), mask, causal=causal)


class FeedForward(nn.Module):
    """Linear up to `hidden`, activation, linear down."""

    def __init__(self, dim: int, hidden: int, *, act: str) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden)
        self.act = ACTIVATIONS[act]()
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the shape of its input."""
        out: Tensor = self.down(self.act(self.up(x)))
        return out


class PostNormLayer(nn.Module):
    """Attention and feed-forward, each followed by dropout, the sum with its input and a LayerNorm (Vaswani 2017)."""

    def __init__(
        self,
        dim: int,
        inner: int,
        *,
        heads: int,
        hidden: int,
        act: str,
        eps: float,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = Attention(dim, inner, heads=heads, dropout=attention_dropout)
        self.attention_norm = nn.LayerNorm(dim, eps=eps)
        self.feed = FeedForward(dim, hidden, act=act)
        self.feed_norm = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns the shape of its input, (batch, tokens, dim)."""
        x = self.attention_norm(x + self.dropout(self.attention(x, mask)))
        out: Tensor = self.feed_norm(x + self.dropout(self.feed(x)))
        return out


class PreNormLayer(nn.Module):
    """LayerNorm before attention and before feed-forward, each added to its input.

    Args:
        sum_norm: a further LayerNorm on the sum of attention and input, as the published elastic ViT has it.
    """

    def __init__(
        self, dim: int, inner: int, *, heads: int, hidden: int, eps: float, dropout: float, sum_norm: bool
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim, eps=eps)
        self.attention = Attention(dim, inner, heads=heads, dropout=dropout)
        self.sum_norm = nn.LayerNorm(dim, eps=eps) if sum_norm else nn.Identity()
        self.feed_norm = nn.LayerNorm(dim, eps=eps)
        self.feed = FeedForward(dim, hidden, act="gelu")
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the shape of its input, (batch, tokens, dim)."""
        x = self.sum_norm(x + self.dropout(self.attention(self.attention_norm(x))))
        out: Tensor = x + self.dropout(self.feed(self.feed_norm(x)))
        return out


# ---- layers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exists:
    """Which architectures have a layer: as `active` and `when` of `LayerSpec`."""

    active: bool | NDArray[np.bool_] = True
    when: tuple[Condition, ...] = ()


ALWAYS = Exists()


def norm_layer(name: str, stage: str, *, dim: Size, tokens: Size, held: Size = 0, exists: Exists = ALWAYS) -> LayerSpec:
    """Returns a LayerNorm over `dim` features of every token."""
    return LayerSpec(
        name,
        "layernorm",
        stage,
        dim,
        dim,
        positions_in=tokens,
        positions=tokens,
        held=held,
        active=exists.active,
        when=exists.when,
    )


def linear_layer(
    name: str,
    stage: str,
    *,
    inputs: Size,
    outputs: Size,
    tokens: Size,
    held: Size = 0,
    prunable: bool = True,
    exists: Exists = ALWAYS,
) -> LayerSpec:
    """Returns a linear layer with bias that is applied to every token."""
    return LayerSpec(
        name,
        "linear",
        stage,
        inputs,
        outputs,
        positions_in=tokens,
        positions=tokens,
        bias=True,
        held=held,
        prunable=prunable,
        active=exists.active,
        when=exists.when,
    )


def attention_layers(
    name: str,
    stage: str,
    *,
    dim: Size,
    inner: Size,
    heads: Size,
    tokens: Size,
    memory: Size | None = None,
    memory_tokens: Size | None = None,
    exists: Exists,
) -> list[LayerSpec]:
    """Returns the layers of an `Attention` whose input is kept for a shortcut, with its two products of activations."""
    memory = dim if memory is None else memory
    memory_tokens = tokens if memory_tokens is None else memory_tokens
    kept = dim * tokens
    query, key = inner * tokens, inner * memory_tokens

    def project(part: str, inputs: Size, outputs: Size, count: Size, held: Size) -> LayerSpec:
        return linear_layer(
            f"{name}.{part}", stage, inputs=inputs, outputs=outputs, tokens=count, held=held, exists=exists
        )

    def product(part: str, inputs: Size, outputs: Size, held: Size) -> LayerSpec:
        return LayerSpec(
            f"{name}.{part}",
            "matmul",
            stage,
            inputs,
            outputs,
            groups=heads,
            positions_in=tokens,
            positions=tokens,
            held=held,
            active=exists.active,
            when=exists.when,
        )

    return [
        project("query", dim, inner, tokens, kept),
        project("key", memory, inner, memory_tokens, kept + query),
        project("value", memory, inner, memory_tokens, kept + query + key),
        product("scores", inner, heads * memory_tokens, kept + 2 * key),
        product("context", heads * memory_tokens, inner, kept + key),
        project("output", inner, dim, tokens, kept),
    ]


def feed_layers(name: str, stage: str, *, dim: Size, hidden: Size, tokens: Size, exists: Exists) -> list[LayerSpec]:
    """Returns the layers of a `FeedForward` whose input is kept for a shortcut."""
    kept = dim * tokens
    return [
        linear_layer(f"{name}.up", stage, inputs=dim, outputs=hidden, tokens=tokens, held=kept, exists=exists),
        linear_layer(f"{name}.down", stage, inputs=hidden, outputs=dim, tokens=tokens, held=kept, exists=exists),
    ]


def feed_group(name: str) -> ChannelGroup:
    """Returns the coupled hidden units of a `FeedForward`, scored by what reads them."""
    members = ((f"{name}.down.weight", 1), (f"{name}.up.weight", 0), (f"{name}.up.bias", 0))
    return ChannelGroup(members, score=members[0])


def head_group(name: str, head_size: int) -> ChannelGroup:
    """Returns the coupled heads of an `Attention`, scored by what reads them."""
    members = [(f"{name}.output.weight", 1)]
    for part in ("query", "key", "value"):
        members += [(f"{name}.{part}.weight", 0), (f"{name}.{part}.bias", 0)]
    return ChannelGroup(tuple(members), score=members[0], block=head_size)


def encoder_groups(n: int, head_size: int) -> list[ChannelGroup]:
    """Returns heads and hidden units of the layers `layers.layer1` .. `layers.layer{n}` of an encoder."""
    groups = []
    for i in range(1, n + 1):
        groups += [head_group(f"layers.layer{i}.attention", head_size), feed_group(f"layers.layer{i}.feed")]
    return groups

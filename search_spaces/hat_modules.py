"""The encoder-decoder of the `hat_transformer` family as plain modules, with incremental decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.transformer_blocks import Attention, FeedForward, KeyValue, PostNormLayer

EPS = 1e-5


def sinusoidal_table(n: int, dim: int, padding: int) -> Tensor:
    """Returns the position table (n, dim): dim / 2 sines, then as many cosines; the padding row is zero.

    Angles are position * 10000 ** (-i / (dim / 2 - 1)), i = 0 .. dim / 2 - 1, as in tensor2tensor and fairseq (Vaswani
    et al. 2017 interleave sines and cosines and divide by dim / 2).
    """
    half = dim // 2
    rates = torch.exp(torch.arange(half) * (-math.log(10000.0) / (half - 1)))
    angles = torch.arange(n)[:, None] * rates
    table = torch.cat([angles.sin(), angles.cos()], dim=1)
    table[padding] = 0
    return table


@dataclass
class DecoderState:
    """What incremental decoding keeps: position, and per layer the keys and values seen so far and of the source.

    Every tensor has the batch first, so `reordered` can follow the hypotheses of a beam.
    """

    position: int
    own: list[KeyValue | None]
    source: list[KeyValue]
    masks: list[Tensor]

    def reordered(self, order: Tensor) -> DecoderState:
        """Returns the state of other rows of the batch: `order` (new batch,) holds their numbers."""

        def pick(pair: KeyValue) -> KeyValue:
            return pair[0][order], pair[1][order]

        own = [None if pair is None else pick(pair) for pair in self.own]
        return DecoderState(self.position, own, [pick(p) for p in self.source], [m[order] for m in self.masks])


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the source, feed-forward; each with a sum and a LayerNorm after it.

    Args:
        dim: width of the decoder. memory: width of the encoder. inner: features of all heads together.
        heads, source_heads: of the two attentions. hidden: feed-forward width.
        encoder_layers: how many of the encoder's last layers are attended to, last one first.
        dropout, attention_dropout: in training.
    """

    def __init__(
        self,
        dim: int,
        memory: int,
        *,
        inner: int,
        heads: int,
        source_heads: int,
        hidden: int,
        encoder_layers: int,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.encoder_layers = encoder_layers
        self.attention = Attention(dim, inner, heads=heads, dropout=attention_dropout)
        self.attention_norm = nn.LayerNorm(dim, eps=EPS)
        self.source_attention = Attention(dim, inner, heads=source_heads, memory=memory, dropout=attention_dropout)
        self.source_norm = nn.LayerNorm(dim, eps=EPS)
        self.feed = FeedForward(dim, hidden, act="relu")
        self.feed_norm = nn.LayerNorm(dim, eps=EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, own: KeyValue, source: KeyValue, mask: Tensor, *, causal: bool) -> Tensor:
        """Returns (batch, tokens, dim).

        Args:
            x: (batch, tokens, dim).
            own: keys and values of all target tokens so far.
            source: keys and values of the source.
            mask: (batch, 1, 1, keys), True where the source has a token.
            causal: token i sees the first i + 1 target tokens only.
        """
        x = self.attention_norm(x + self.dropout(self.attention.attend(x, own, causal=causal)))
        x = self.source_norm(x + self.dropout(self.source_attention.attend(x, source, mask)))
        out: Tensor = self.feed_norm(x + self.dropout(self.feed(x)))
        return out


class TranslationTransformer(nn.Module):
    """Encoder-decoder with one embedding for source, target and output; either side reads its first columns.

    Args:
        vocab_size: entries of the embedding. padding: id of the padding token. max_tokens: longest sentence.
        encoder_dim, decoder_dim: widths. table_dim: width that the positions are computed for.
        encoder, decoder: the layers.
        dropout: of the embeddings, in training.
    """

    positions: Tensor

    def __init__(
        self,
        vocab_size: int,
        *,
        padding: int,
        max_tokens: int,
        encoder_dim: int,
        decoder_dim: int,
        table_dim: int,
        encoder: Sequence[PostNormLayer],
        decoder: Sequence[DecoderLayer],
        dropout: float,
    ) -> None:
        super().__init__()
        self.padding, self.encoder_dim, self.decoder_dim = padding, encoder_dim, decoder_dim
        dim = max(encoder_dim, decoder_dim)
        self.embedding = nn.Embedding(vocab_size, dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        # The table is made for the full width and cut, not recomputed for the active one.
        self.register_buffer("positions", sinusoidal_table(max_tokens + padding + 1, table_dim, padding)[:, :dim])
        self.encoder = nn.ModuleDict({f"layer{i}": layer for i, layer in enumerate(encoder, start=1)})
        self.decoder = nn.ModuleDict({f"layer{i}": layer for i, layer in enumerate(decoder, start=1)})
        self.dropout = nn.Dropout(dropout)

    def _embed(self, ids: Tensor, places: Tensor, dim: int) -> Tensor:
        words = F.embedding(ids, self.embedding.weight[:, :dim]) * math.sqrt(dim)
        out: Tensor = self.dropout(words + self.positions[:, :dim][places])
        return out

    @property
    def longest(self) -> int:
        """The number of tokens that there are positions for."""
        return self.positions.shape[0] - self.padding - 1

    def _places(self, ids: Tensor) -> Tensor:
        """Returns the row of the position table for every token (batch, tokens): 1, 2, ... after the padding id."""
        real = ids.ne(self.padding)
        return real.cumsum(1) * real + self.padding

    def encode(self, source: Tensor) -> tuple[list[Tensor], Tensor]:
        """Returns the outputs of all encoder layers, each (batch, tokens, dim), and the mask of tokens (batch, tokens).

        Args:
            source: ids (batch, tokens), padded on either side.
        """
        real = source.ne(self.padding)
        x = self._embed(source, self._places(source), self.encoder_dim)
        outputs = []
        for layer in self.encoder.values():
            x = layer(x, real[:, None, None, :])
            outputs.append(x)
        return outputs, real

    def start(self, source: Tensor) -> DecoderState:
        """Returns the state before the first target token: what the decoder reads of the source."""
        outputs, real = self.encode(source)
        sources, masks = [], []
        for layer in self._decoder_layers():
            memory = torch.cat(outputs[::-1][: layer.encoder_layers], dim=1)  # along time, last layer first
            sources.append(layer.source_attention.keys_values(memory))
            masks.append(real.repeat(1, layer.encoder_layers)[:, None, None, :])
        return DecoderState(0, [None] * len(sources), sources, masks)

    def _decoder_layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.decoder.values() if isinstance(layer, DecoderLayer)]

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(x, self.embedding.weight[:, : self.decoder_dim])

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Returns the logits of every next token with the true ones before it given, (batch, tokens, vocabulary).

        Args:
            source: ids (batch, source tokens).
            target: ids (batch, tokens), begun with the end-of-sentence token, padded on the right.
        """
        state = self.start(source)
        x = self._embed(target, self._places(target), self.decoder_dim)
        for layer, memory, mask in zip(self._decoder_layers(), state.source, state.masks, strict=True):
            x = layer(x, layer.attention.keys_values(x), memory, mask, causal=True)
        return self._logits(x)

    def step(self, last: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Returns the logits (batch, vocabulary) after one more target token, and the state that includes it.

        Args:
            last: the newest token of every hypothesis, (batch,).
            state: from `start` or an earlier step; left as it is.
        """
        place = torch.full_like(last, state.position + 1 + self.padding)[:, None]
        x = self._embed(last[:, None], place, self.decoder_dim)
        own: list[KeyValue | None] = []
        rows = zip(self._decoder_layers(), state.own, state.source, state.masks, strict=True)
        for layer, before, memory, mask in rows:
            key, value = layer.attention.keys_values(x)
            if before is not None:
                key, value = torch.cat([before[0], key], dim=2), torch.cat([before[1], value], dim=2)
            own.append((key, value))
            x = layer(x, (key, value), memory, mask, causal=False)
        return self._logits(x[:, 0]), DecoderState(state.position + 1, own, state.source, state.masks)

"""The `bert` family: a BERT classifier with elastic layers, heads and feed-forward width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from search_spaces.architecture import Architecture
from search_spaces.encoder_genes import encoder_genes, layer_condition
from search_spaces.layers import LayerSpec
from search_spaces.presets import EncoderSizes, preset_with
from search_spaces.space import SearchSpace
from search_spaces.supernet import ChannelGroup, Columns, Family
from search_spaces.transformer_blocks import (
    Exists,
    PostNormLayer,
    attention_layers,
    encoder_groups,
    feed_layers,
    linear_layer,
    norm_layer,
)

EPS = 1e-12
PRESETS: Mapping[str, EncoderSizes] = {
    "base": EncoderSizes(768, 64, (6, 7, 8, 9, 10, 11, 12), (6, 8, 10, 12), (1024, 2048, 3072)),
    "small": EncoderSizes(256, 32, (4, 5, 6), (4, 6, 8), (256, 512, 1024)),
    "tiny": EncoderSizes(64, 16, (1, 2), (2, 3, 4), (64, 128)),
}


class BertEmbeddings(nn.Module):
    """Sum of word, position and type embeddings, LayerNorm, dropout."""

    def __init__(self, vocab_size: int, max_tokens: int, *, dim: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, dim)
        self.positions = nn.Embedding(max_tokens, dim)
        self.types = nn.Embedding(2, dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, types: Tensor | None = None) -> Tensor:
        """Returns (batch, tokens, dim) of ids (batch, tokens); all tokens are of type 0 unless given."""
        kinds = self.types.weight[0] if types is None else self.types(types)
        out: Tensor = self.dropout(self.norm(self.words(ids) + kinds + self.positions.weight[: ids.shape[1]]))
        return out


class BertClassifier(nn.Module):
    """Embeddings, layers, tanh pooler of the first token, linear classifier."""

    def __init__(
        self, embeddings: BertEmbeddings, layers: Sequence[PostNormLayer], *, dim: int, n_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.layers = nn.ModuleDict({f"layer{i}": layer for i, layer in enumerate(layers, start=1)})
        self.pooler = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(dim, n_classes)

    def encode(self, ids: Tensor, mask: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        """Returns the last layer's output, (batch, tokens, dim).

        Args:
            ids: (batch, tokens), int64.
            mask: (batch, tokens), 1 or True for tokens, 0 for padding; None for no padding.
            types: (batch, tokens), 0 or 1; None for 0.
        """
        seen = None if mask is None else mask.bool()[:, None, None, :]
        x = self.embeddings(ids, types)
        for layer in self.layers.values():
            x = layer(x, seen)
        out: Tensor = x
        return out

    def pool(self, hidden: Tensor) -> Tensor:
        """Returns (batch, dim) from (batch, tokens, dim)."""
        return torch.tanh(self.pooler(hidden[:, 0]))

    def forward(self, ids: Tensor, mask: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        """Returns logits (batch, classes); arguments as for `encode`."""
        out: Tensor = self.classifier(self.dropout(self.pool(self.encode(ids, mask, types))))
        return out


class Bert(Family):
    """BERT for classification (the published `bert_base_sst2` space by default).

    | genes, in this order | choices | active |
    |---|---|---|
    | layers | 6 .. 12: the first so many | always |
    | layer{i}.heads, all layers | 6, 8, 10, 12: the first so many, of 64 features each | while i <= layers |
    | layer{i}.hidden, all layers | 1024, 2048, 3072: feed-forward width | while i <= layers |

    The width of the residual stream is fixed. Inputs are ids and mask, each (batch, tokens). Checkpoints use Hugging
    Face's names, with or without `bert.`.

    Args:
        n_classes: outputs.
        vocab_size: entries of the word embedding. max_tokens: entries of the position embedding.
        tokens: length of example inputs and of the inputs that costs are for.
        preset: `base` (published), `small` (4 to 6 layers of width 256), `tiny` (1 to 2 layers of width 64).
        dim: width of the residual stream. head_size: features per head. By default the preset's.
        layers, heads, hidden: choices. By default the preset's.
        dropout: in training.

    Source: Devlin et al. 2019; elastic heads and layers as in DyNAS-T's `bert_base_sst2`.
    """

    name = "bert"
    published_ignored = (r"position_ids$", r"^cls\.")

    def __init__(
        self,
        *,
        n_classes: int = 2,
        vocab_size: int = 30522,
        max_tokens: int = 512,
        tokens: int = 128,
        preset: str = "base",
        dim: int | None = None,
        head_size: int | None = None,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        hidden: Sequence[int] | None = None,
        dropout: float = 0.1,
    ) -> None:
        if n_classes < 1:
            raise ValueError(f"n_classes must be at least 1, but got {n_classes}.")
        if not 1 <= tokens <= max_tokens:
            raise ValueError(f"tokens must be between 1 and max_tokens ({max_tokens}), but got {tokens}.")
        self.n_classes, self.vocab_size, self.max_tokens, self.tokens = n_classes, vocab_size, max_tokens, tokens
        given = {"dim": dim, "head_size": head_size, "layers": layers, "heads": heads, "hidden": hidden}
        sizes = preset_with(PRESETS, preset, given)
        self.dim, self.head_size, self.depths, self.dropout = sizes.dim, sizes.head_size, tuple(sizes.layers), dropout
        self.input_shape = (tokens,)
        self.space = SearchSpace(encoder_genes(sizes.layers, sizes.heads, sizes.hidden))

    def build(self, arch: Architecture) -> nn.Module:
        """Returns a `BertClassifier`."""
        layers = []
        for i in range(1, arch.integer("layers") + 1):
            heads = arch.integer(f"layer{i}.heads")
            layers.append(
                PostNormLayer(
                    self.dim,
                    heads * self.head_size,
                    heads=heads,
                    hidden=arch.integer(f"layer{i}.hidden"),
                    act="gelu",
                    eps=EPS,
                    dropout=self.dropout,
                    attention_dropout=self.dropout,
                )
            )
        embeddings = BertEmbeddings(self.vocab_size, self.max_tokens, dim=self.dim, dropout=self.dropout)
        return BertClassifier(embeddings, layers, dim=self.dim, n_classes=self.n_classes, dropout=self.dropout)

    def layers(self, columns: Columns) -> list[LayerSpec]:
        """Returns embeddings, all layers that may exist, pooler and classifier. Pooler and classifier stay dense."""
        tokens, dim = self.tokens, self.dim
        layers = [
            LayerSpec(f"embeddings.{name}", "embedding", "embeddings", n, dim, positions_in=0, positions=tokens)
            for name, n in (("words", self.vocab_size), ("positions", self.max_tokens), ("types", 2))
        ]
        layers.append(norm_layer("embeddings.norm", "embeddings", dim=dim, tokens=tokens))
        for i in range(1, max(self.depths) + 1):
            name = f"layers.layer{i}"
            active = columns["layers"] >= i if i > min(self.depths) else True
            exists = Exists(active, layer_condition(self.depths, i))
            heads = columns[f"layer{i}.heads"]
            layers += attention_layers(
                f"{name}.attention",
                f"layer{i}",
                dim=dim,
                inner=heads * self.head_size,
                heads=heads,
                tokens=tokens,
                exists=exists,
            )
            layers.append(norm_layer(f"{name}.attention_norm", f"layer{i}", dim=dim, tokens=tokens, exists=exists))
            layers += feed_layers(
                f"{name}.feed", f"layer{i}", dim=dim, hidden=columns[f"layer{i}.hidden"], tokens=tokens, exists=exists
            )
            layers.append(norm_layer(f"{name}.feed_norm", f"layer{i}", dim=dim, tokens=tokens, exists=exists))
        layers.append(linear_layer("pooler", "head", inputs=dim, outputs=dim, tokens=1, prunable=False))
        layers.append(linear_layer("classifier", "head", inputs=dim, outputs=self.n_classes, tokens=1, prunable=False))
        return layers

    def channel_groups(self) -> list[ChannelGroup]:
        """Returns heads and hidden units of every layer."""
        return encoder_groups(max(self.depths), self.head_size)

    # -- published weights ---------------------------------------------------------------------------

    published_variants: Mapping[str, str] = {
        r"^bert\.": "",
        r"LayerNorm\.gamma$": "LayerNorm.weight",
        r"LayerNorm\.beta$": "LayerNorm.bias",
    }

    def published_name(self, name: str) -> str | None:
        """Returns Hugging Face's name of a full tensor."""
        part, _, rest = name.partition(".")
        if part == "classifier":
            return name
        if part == "pooler":
            return f"bert.pooler.dense.{rest}"
        if part == "embeddings":
            layer, _, tensor = rest.partition(".")
            names = {
                "words": "word_embeddings",
                "positions": "position_embeddings",
                "types": "token_type_embeddings",
                "norm": "LayerNorm",
            }
            return f"bert.embeddings.{names[layer]}.{tensor}"
        layer, _, inner = rest.partition(".")
        owner, _, tensor = inner.rpartition(".")
        names = {
            "attention.query": "attention.self.query",
            "attention.key": "attention.self.key",
            "attention.value": "attention.self.value",
            "attention.output": "attention.output.dense",
            "attention_norm": "attention.output.LayerNorm",
            "feed.up": "intermediate.dense",
            "feed.down": "output.dense",
            "feed_norm": "output.LayerNorm",
        }
        return f"bert.encoder.layer.{int(layer.removeprefix('layer')) - 1}.{names[owner]}.{tensor}"

    def example_inputs(
        self, *, batch: int = 1, generator: torch.Generator | None = None, arch: Architecture | None = None
    ) -> tuple[Tensor, ...]:
        """Returns random ids and a mask of ones, each (batch, tokens)."""
        ids = torch.randint(0, self.vocab_size, (batch, self.tokens), generator=generator)
        return ids, torch.ones_like(ids)

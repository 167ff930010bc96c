"""The `vit` family: a vision transformer with elastic layers, heads and feed-forward width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

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
    PreNormLayer,
    attention_layers,
    encoder_groups,
    feed_layers,
    linear_layer,
    norm_layer,
)

Layout = Literal["published", "torchvision", "huggingface"]


@dataclass(frozen=True)
class ViTSizes(EncoderSizes):
    """Sizes of a vision transformer: also the side of the image and of a patch."""

    side: int
    patch: int


PRESETS: Mapping[str, ViTSizes] = {
    "base": ViTSizes(768, 64, (10, 11, 12), (6, 8, 10, 12), (1024, 2048, 3072), 224, 16),
    "small": ViTSizes(192, 32, (4, 5, 6), (3, 4, 6), (192, 384, 768), 32, 4),
    "tiny": ViTSizes(64, 16, (1, 2), (2, 3, 4), (64, 128), 16, 4),
}
EPS: Mapping[Layout, float] = {"published": 1e-6, "torchvision": 1e-6, "huggingface": 1e-12}


class VisionTransformer(nn.Module):
    """Patches, class token, positions, layers, LayerNorm, linear classifier of the class token.

    Args:
        positions: shape of the position embedding: (1, tokens, dim) or (tokens, dim).
    """

    def __init__(
        self,
        layers: Sequence[PreNormLayer],
        *,
        patch: int,
        dim: int,
        positions: tuple[int, ...],
        n_classes: int,
        eps: float,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.empty(positions).normal_(std=0.02))
        self.layers = nn.Sequential()
        for i, layer in enumerate(layers, start=1):
            self.layers.add_module(f"layer{i}", layer)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.classifier = nn.Linear(dim, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (batch, classes) of images (batch, 3, side, side)."""
        x = self.patches(images).flatten(2).transpose(1, 2)  # (batch, patches, dim)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.positions
        out: Tensor = self.classifier(self.norm(self.layers(x))[:, 0])
        return out


class ViT(Family):
    """A vision transformer (the published elastic ViT-B/16 space by default).

    | genes, in this order | choices | active |
    |---|---|---|
    | layers | 10, 11, 12: the first so many | always |
    | layer{i}.heads, all layers | 6, 8, 10, 12: the first so many, of 64 features each | while i <= layers |
    | layer{i}.hidden, all layers | 1024, 2048, 3072: feed-forward width | while i <= layers |

    `layout` decides over the network and over the names in checkpoints:

    - `published`: the elastic ViT-B/16 of DyNAS-T. Its blocks have a LayerNorm more than others:
      y = LayerNorm(attention(ln_1(x)) + x), out = y + mlp(ln_2(y)).
    - `torchvision`: the usual pre-norm block, LayerNorm eps 1e-6, torchvision's names (fused `in_proj`).
    - `huggingface`: the same with eps 1e-12 and the names of `ViTForImageClassification`.

    Args:
        n_classes: outputs.
        preset: `base` (published), `small` (32 x 32 images, 4 to 6 layers of width 192), `tiny` (16 x 16, 1 to 2
            layers of width 64). What follows replaces its values.
        side: of the square RGB image. patch: side of a patch; divides `side`.
        dim: width of the residual stream. head_size: features per head.
        layers, heads, hidden: choices.
        layout: see above.
        dropout: in training.

    Source: Dosovitskiy et al. 2021.
    """

    name = "vit"
    published_ignored = (r"position_ids$",)

    def __init__(
        self,
        *,
        n_classes: int = 1000,
        preset: str = "base",
        side: int | None = None,
        patch: int | None = None,
        dim: int | None = None,
        head_size: int | None = None,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        hidden: Sequence[int] | None = None,
        layout: Layout = "published",
        dropout: float = 0.0,
    ) -> None:
        if n_classes < 1:
            raise ValueError(f"n_classes must be at least 1, but got {n_classes}.")
        given = {
            "side": side,
            "patch": patch,
            "dim": dim,
            "head_size": head_size,
            "layers": layers,
            "heads": heads,
            "hidden": hidden,
        }
        sizes = preset_with(PRESETS, preset, given)
        if sizes.patch < 1 or sizes.side < sizes.patch or sizes.side % sizes.patch:
            raise ValueError(f"side must be a multiple of patch, but got {sizes.side} and {sizes.patch}.")
        if layout not in EPS:
            raise ValueError(f"layout must be one of {list(EPS)}, but got {layout!r}.")
        self.n_classes, self.side, self.patch = n_classes, sizes.side, sizes.patch
        self.dim, self.head_size = sizes.dim, sizes.head_size
        self.depths, self.layout, self.dropout = tuple(sizes.layers), layout, dropout
        self.tokens = (self.side // self.patch) ** 2 + 1
        self.input_shape = (3, self.side, self.side)
        self.space = SearchSpace(encoder_genes(sizes.layers, sizes.heads, sizes.hidden))

    def build(self, arch: Architecture) -> nn.Module:
        """Returns a `VisionTransformer`."""
        eps, published = EPS[self.layout], self.layout == "published"
        layers = []
        for i in range(1, arch.integer("layers") + 1):
            heads, hidden = arch.integer(f"layer{i}.heads"), arch.integer(f"layer{i}.hidden")
            inner = heads * self.head_size
            layers.append(
                PreNormLayer(
                    self.dim, inner, heads=heads, hidden=hidden, eps=eps, dropout=self.dropout, sum_norm=published
                )
            )
        positions = (self.tokens, self.dim) if published else (1, self.tokens, self.dim)
        return VisionTransformer(
            layers, patch=self.patch, dim=self.dim, positions=positions, n_classes=self.n_classes, eps=eps
        )

    def layers(self, columns: Columns) -> list[LayerSpec]:
        """Returns patches, embeddings, all layers that may exist and the head. Patches and classifier stay dense."""
        tokens, dim = self.tokens, self.dim
        layers = [
            LayerSpec(
                "patches",
                "conv",
                "embeddings",
                3,
                dim,
                kernel=self.patch,
                positions_in=self.side**2,
                positions=tokens - 1,
                bias=True,
                prunable=False,
            ),
            LayerSpec("class_token", "embedding", "embeddings", 1, dim, positions_in=0),
            LayerSpec("positions", "embedding", "embeddings", tokens, dim, positions_in=0, positions=tokens),
        ]
        for i in range(1, max(self.depths) + 1):
            name, stage = f"layers.layer{i}", f"layer{i}"
            active = columns["layers"] >= i if i > min(self.depths) else True
            exists = Exists(active, layer_condition(self.depths, i))
            heads = columns[f"layer{i}.heads"]
            layers.append(
                norm_layer(f"{name}.attention_norm", stage, dim=dim, tokens=tokens, held=dim * tokens, exists=exists)
            )
            layers += attention_layers(
                f"{name}.attention",
                stage,
                dim=dim,
                inner=heads * self.head_size,
                heads=heads,
                tokens=tokens,
                exists=exists,
            )
            if self.layout == "published":
                layers.append(norm_layer(f"{name}.sum_norm", stage, dim=dim, tokens=tokens, exists=exists))
            layers.append(
                norm_layer(f"{name}.feed_norm", stage, dim=dim, tokens=tokens, held=dim * tokens, exists=exists)
            )
            layers += feed_layers(
                f"{name}.feed", stage, dim=dim, hidden=columns[f"layer{i}.hidden"], tokens=tokens, exists=exists
            )
        layers.append(norm_layer("norm", "head", dim=dim, tokens=tokens))
        layers.append(linear_layer("classifier", "head", inputs=dim, outputs=self.n_classes, tokens=1, prunable=False))
        return layers

    def channel_groups(self) -> list[ChannelGroup]:
        """Returns heads and hidden units of every layer."""
        return encoder_groups(max(self.depths), self.head_size)

    # -- published weights ---------------------------------------------------------------------------

    published_variants: Mapping[str, str] = {
        r"\.mlp\.0\.": ".mlp.linear_1.",  # torchvision since 0.13
        r"\.mlp\.3\.": ".mlp.linear_2.",
        r"^vit\.layers\.": "vit.encoder.layer.",  # transformers since 5
        r"\.attention\.q_proj\.": ".attention.attention.query.",
        r"\.attention\.k_proj\.": ".attention.attention.key.",
        r"\.attention\.v_proj\.": ".attention.attention.value.",
        r"\.attention\.o_proj\.": ".attention.output.dense.",
        r"\.mlp\.fc1\.": ".intermediate.dense.",
        r"\.mlp\.fc2\.": ".output.dense.",
    }

    def published_name(self, name: str) -> str | None:
        """Returns the name of a full tensor in checkpoints of the layout."""
        part, _, rest = name.partition(".")
        if part != "layers":
            return ".".join(filter(None, [OUTER[self.layout][part], rest]))
        layer, _, inner = rest.partition(".")
        owner, _, tensor = inner.rpartition(".")
        before, names = INNER[self.layout]
        new = names[owner]
        joint = "." if not new.endswith("_") else ""  # torchvision's in_proj_weight and in_proj_bias are parameters
        return f"{before}{int(layer.removeprefix('layer')) - 1}.{new}{joint}{tensor}"


OUTER: Mapping[Layout, Mapping[str, str]] = {
    "published": {
        "patches": "conv_proj",
        "class_token": "class_token",
        "positions": "encoder.pos_embedding.weight",
        "norm": "encoder.ln",
        "classifier": "heads.head",
    },
    "torchvision": {
        "patches": "conv_proj",
        "class_token": "class_token",
        "positions": "encoder.pos_embedding",
        "norm": "encoder.ln",
        "classifier": "heads.head",
    },
    "huggingface": {
        "patches": "vit.embeddings.patch_embeddings.projection",
        "class_token": "vit.embeddings.cls_token",
        "positions": "vit.embeddings.position_embeddings",
        "norm": "vit.layernorm",
        "classifier": "classifier",
    },
}
INNER: Mapping[Layout, tuple[str, Mapping[str, str]]] = {
    "published": (
        "encoder.layers.encoder_layer_",
        {
            "attention_norm": "ln_1",
            "attention.query": "self_attention.query",
            "attention.key": "self_attention.key",
            "attention.value": "self_attention.value",
            "attention.output": "attention_output.dense",
            "sum_norm": "attention_output.LayerNorm",
            "feed_norm": "ln_2",
            "feed.up": "mlp.linear_1",
            "feed.down": "mlp.linear_2",
        },
    ),
    "torchvision": (
        "encoder.layers.encoder_layer_",
        {
            "attention_norm": "ln_1",
            "attention.query": "self_attention.in_proj_",
            "attention.key": "self_attention.in_proj_",
            "attention.value": "self_attention.in_proj_",
            "attention.output": "self_attention.out_proj",
            "feed_norm": "ln_2",
            "feed.up": "mlp.linear_1",
            "feed.down": "mlp.linear_2",
        },
    ),
    "huggingface": (
        "vit.encoder.layer.",
        {
            "attention_norm": "layernorm_before",
            "attention.query": "attention.attention.query",
            "attention.key": "attention.attention.key",
            "attention.value": "attention.attention.value",
            "attention.output": "attention.output.dense",
            "feed_norm": "layernorm_after",
            "feed.up": "intermediate.dense",
            "feed.down": "output.dense",
        },
    ),
}

"""The `hat_transformer` family: HAT's elastic translation transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search_spaces.architecture import Architecture
from search_spaces.genes import Condition, Gene
from search_spaces.hat_modules import EPS, DecoderLayer, TranslationTransformer
from search_spaces.layers import LayerSpec
from search_spaces.presets import preset_with
from search_spaces.space import SearchSpace
from search_spaces.supernet import ChannelGroup, Columns, Family
from search_spaces.transformer_blocks import (
    Exists,
    PostNormLayer,
    attention_layers,
    feed_group,
    feed_layers,
    norm_layer,
)

ATTEND = {-1: 1, 1: 2, 2: 3}
"""Choice of `decoder.layer{i}.attend` -> how many of the encoder's last layers are attended to."""


@dataclass(frozen=True)
class HatSizes:
    """Sizes of a translation transformer: choices, the number of encoder layers, features of all heads together."""

    dims: tuple[int, ...]
    encoder_hidden: tuple[int, ...]
    decoder_hidden: tuple[int, ...]
    heads: tuple[int, ...]
    encoder_layers: int
    decoder_layers: tuple[int, ...]
    inner: int


PRESETS: Mapping[str, HatSizes] = {
    "wmt14_en_de": HatSizes((640, 512), (3072, 2048, 1024), (3072, 2048, 1024), (8, 4), 6, (6, 5, 4, 3, 2, 1), 512),
    "small": HatSizes((128, 96), (512, 256), (512, 256), (8, 4), 3, (3, 2, 1), 128),
    "tiny": HatSizes((32, 24), (64, 32), (64, 32), (4, 2), 3, (2, 1), 32),
}


class HatTransformer(Family):
    """HAT's translation super-network (`transformer_lt_wmt_en_de` by default).

    | genes, in this order | choices | active |
    |---|---|---|
    | encoder.dim, decoder.dim | 640, 512: width of each side | always |
    | decoder.layers | 6, 5, 4, 3, 2, 1: the first so many | always |
    | encoder.layer{i}.hidden, 6 layers | 3072, 2048, 1024: feed-forward width | always |
    | decoder.layer{i}.hidden, 6 layers | 3072, 2048, 1024 | while i <= decoder.layers |
    | encoder.layer{i}.heads, 6 layers | 8, 4 | always |
    | decoder.layer{i}.heads, decoder.layer{i}.source_heads, 6 layers each | 8, 4 | while i <= decoder.layers |
    | decoder.layer{i}.attend, 6 layers | -1, 1, 2: the last 1, 2, 3 encoder layers | while i <= decoder.layers |

    The heads together always have `inner` features: a choice changes their size and the scaling, not the number of
    parameters. Layers of the encoder that are attended to are joined along time, the last one first. Source, target
    and output share one embedding; a side that is narrower reads its first columns. Inputs are source ids and target
    ids, the latter begun with the end-of-sentence token; outputs are the logits of every next token.

    Costs are those of one pass over a sentence pair with the target given. Parameters count the embedding once.

    Args:
        vocab_size: of the joint dictionary. padding, end: ids of these tokens.
        source_tokens, target_tokens: lengths of example inputs and of the inputs that costs are for.
        max_tokens: longest sentence.
        preset: `wmt14_en_de` (published), `small` (width 128 and 96), `tiny` (32 and 24). What follows replaces its
            values.
        dims, encoder_hidden, decoder_hidden, heads, decoder_layers: choices.
        encoder_layers: number of encoder layers, at least 3.
        inner: features of all heads together.
        dropout, attention_dropout: in training, `dropout` in proportion to the active width.

    Source: Wang et al. 2020, "HAT: Hardware-Aware Transformers for Efficient Natural Language Processing".
    """

    name = "hat_transformer"
    published_copies: Mapping[str, str] = {"decoder.embed_tokens.weight": "encoder.embed_tokens.weight"}
    published_ignored = (r"(encoder|decoder)\.version$", r"embed_positions\.(_float_tensor|weights)$")

    def __init__(
        self,
        *,
        vocab_size: int = 32768,
        padding: int = 1,
        end: int = 2,
        source_tokens: int = 30,
        target_tokens: int = 30,
        max_tokens: int = 1024,
        preset: str = "wmt14_en_de",
        dims: Sequence[int] | None = None,
        encoder_hidden: Sequence[int] | None = None,
        decoder_hidden: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        encoder_layers: int | None = None,
        decoder_layers: Sequence[int] | None = None,
        inner: int | None = None,
        dropout: float = 0.3,
        attention_dropout: float = 0.1,
    ) -> None:
        given = {
            "dims": dims,
            "encoder_hidden": encoder_hidden,
            "decoder_hidden": decoder_hidden,
            "heads": heads,
            "encoder_layers": encoder_layers,
            "decoder_layers": decoder_layers,
            "inner": inner,
        }
        sizes = preset_with(PRESETS, preset, given)
        if sizes.encoder_layers < max(ATTEND.values()):
            raise ValueError(f"encoder_layers must be at least {max(ATTEND.values())}, but got {sizes.encoder_layers}.")
        if any(sizes.inner % h for h in sizes.heads):
            raise ValueError(f"heads must divide inner ({sizes.inner}), but got {list(sizes.heads)}.")
        if max(source_tokens, target_tokens) > max_tokens:
            raise ValueError(
                f"source_tokens and target_tokens must be at most max_tokens ({max_tokens}), "
                f"but got {source_tokens} and {target_tokens}."
            )
        if not 0 <= padding < vocab_size or not 0 <= end < vocab_size or padding == end:
            raise ValueError(
                f"padding and end must be two ids below vocab_size ({vocab_size}), but got {padding} and {end}."
            )
        self.vocab_size, self.padding, self.end, self.max_tokens = vocab_size, padding, end, max_tokens
        self.source_tokens, self.target_tokens = source_tokens, target_tokens
        self.dims, self.inner = tuple(sizes.dims), sizes.inner
        self.n_encoder, self.depths = sizes.encoder_layers, tuple(sizes.decoder_layers)
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.input_shape = (source_tokens,)
        encoder, decoder = range(1, self.n_encoder + 1), range(1, max(self.depths) + 1)
        heads, encoder_hidden, decoder_hidden = sizes.heads, sizes.encoder_hidden, sizes.decoder_hidden
        genes = [Gene("encoder.dim", self.dims), Gene("decoder.dim", self.dims), Gene("decoder.layers", self.depths)]
        genes += [Gene(f"encoder.layer{i}.hidden", tuple(encoder_hidden)) for i in encoder]
        genes += [Gene(f"decoder.layer{i}.hidden", tuple(decoder_hidden), active_when=self._when(i)) for i in decoder]
        genes += [Gene(f"encoder.layer{i}.heads", tuple(heads)) for i in encoder]
        for part in ("heads", "source_heads"):
            genes += [Gene(f"decoder.layer{i}.{part}", tuple(heads), active_when=self._when(i)) for i in decoder]
        genes += [Gene(f"decoder.layer{i}.attend", tuple(ATTEND), active_when=self._when(i)) for i in decoder]
        self.space = SearchSpace(genes)

    def _when(self, i: int) -> tuple[Condition, ...]:
        exist = tuple(d for d in self.depths if d >= i)
        return () if len(exist) == len(self.depths) else (Condition("decoder.layers", exist),)

    # -- modules -------------------------------------------------------------------------------------

    def build(self, arch: Architecture) -> nn.Module:
        """Returns a `TranslationTransformer`."""
        encoder_dim, decoder_dim = arch.integer("encoder.dim"), arch.integer("decoder.dim")
        encoder = [
            PostNormLayer(
                encoder_dim,
                self.inner,
                heads=arch.integer(f"encoder.layer{i}.heads"),
                hidden=arch.integer(f"encoder.layer{i}.hidden"),
                act="relu",
                eps=EPS,
                dropout=self._scaled_dropout(encoder_dim),
                attention_dropout=self.attention_dropout,
            )
            for i in range(1, self.n_encoder + 1)
        ]
        decoder = [
            DecoderLayer(
                decoder_dim,
                encoder_dim,
                inner=self.inner,
                heads=arch.integer(f"decoder.layer{i}.heads"),
                source_heads=arch.integer(f"decoder.layer{i}.source_heads"),
                hidden=arch.integer(f"decoder.layer{i}.hidden"),
                encoder_layers=ATTEND[arch.integer(f"decoder.layer{i}.attend")],
                dropout=self._scaled_dropout(decoder_dim),
                attention_dropout=self.attention_dropout,
            )
            for i in range(1, arch.integer("decoder.layers") + 1)
        ]
        return TranslationTransformer(
            self.vocab_size,
            padding=self.padding,
            max_tokens=self.max_tokens,
            encoder_dim=encoder_dim,
            decoder_dim=decoder_dim,
            table_dim=max(self.dims),
            encoder=encoder,
            decoder=decoder,
            dropout=self._scaled_dropout(max(encoder_dim, decoder_dim)),
        )

    def _scaled_dropout(self, dim: int) -> float:
        return self.dropout * dim / max(self.dims)

    # -- layers --------------------------------------------------------------------------------------

    def layers(self, columns: Columns) -> list[LayerSpec]:
        """Returns embedding, encoder, all decoder layers that may exist, and the output (the embedding again)."""
        encoder_dim, decoder_dim = columns["encoder.dim"], columns["decoder.dim"]
        widest = columns["encoder.dim"].clip(min=columns["decoder.dim"])
        source, target = self.source_tokens, self.target_tokens
        rows = self.max_tokens + self.padding + 1
        layers = [
            LayerSpec(
                "embedding",
                "embedding",
                "embedding",
                self.vocab_size,
                widest,
                positions_in=0,
                positions=source + target,
            ),
            LayerSpec("positions", "table", "embedding", rows, widest, positions_in=0, positions=source + target),
        ]
        for i in range(1, self.n_encoder + 1):
            name, stage, exists = f"encoder.layer{i}", "encoder", Exists()
            layers += attention_layers(
                f"{name}.attention",
                stage,
                dim=encoder_dim,
                inner=self.inner,
                heads=columns[f"{name}.heads"],
                tokens=source,
                exists=exists,
            )
            layers.append(norm_layer(f"{name}.attention_norm", stage, dim=encoder_dim, tokens=source))
            hidden = columns[f"{name}.hidden"]
            layers += feed_layers(f"{name}.feed", stage, dim=encoder_dim, hidden=hidden, tokens=source, exists=exists)
            layers.append(norm_layer(f"{name}.feed_norm", stage, dim=encoder_dim, tokens=source))
        for i in range(1, max(self.depths) + 1):
            name, stage = f"decoder.layer{i}", "decoder"
            exists = Exists(columns["decoder.layers"] >= i if i > min(self.depths) else True, self._when(i))
            layers += attention_layers(
                f"{name}.attention",
                stage,
                dim=decoder_dim,
                inner=self.inner,
                heads=columns[f"{name}.heads"],
                tokens=target,
                exists=exists,
            )
            layers.append(norm_layer(f"{name}.attention_norm", stage, dim=decoder_dim, tokens=target, exists=exists))
            attend = columns[f"{name}.attend"]
            layers += attention_layers(
                f"{name}.source_attention",
                stage,
                dim=decoder_dim,
                inner=self.inner,
                heads=columns[f"{name}.source_heads"],
                tokens=target,
                memory=encoder_dim,
                memory_tokens=source * (1 + attend.clip(min=0)),
                exists=exists,
            )
            layers.append(norm_layer(f"{name}.source_norm", stage, dim=decoder_dim, tokens=target, exists=exists))
            hidden = columns[f"{name}.hidden"]
            layers += feed_layers(f"{name}.feed", stage, dim=decoder_dim, hidden=hidden, tokens=target, exists=exists)
            layers.append(norm_layer(f"{name}.feed_norm", stage, dim=decoder_dim, tokens=target, exists=exists))
        # The output multiplies by the embedding, whose parameters are counted above.
        layers.append(
            LayerSpec(
                "output", "matmul", "embedding", decoder_dim, self.vocab_size, positions_in=target, positions=target
            )
        )
        return layers

    def channel_groups(self) -> list[ChannelGroup]:
        """Returns the hidden units of every layer."""
        encoder = [f"encoder.layer{i}" for i in range(1, self.n_encoder + 1)]
        decoder = [f"decoder.layer{i}" for i in range(1, max(self.depths) + 1)]
        return [feed_group(f"{name}.feed") for name in encoder + decoder]

    # -- published weights ---------------------------------------------------------------------------

    def published_name(self, name: str) -> str | None:
        """Returns fairseq's name of a full tensor: query, key and value are parts of one; positions are computed."""
        if name == "positions":
            return None
        if name == "embedding.weight":
            return "encoder.embed_tokens.weight"
        side, layer, rest = name.split(".", 2)
        owner, _, tensor = rest.rpartition(".")
        names = {
            "attention_norm": "self_attn_layer_norm",
            "source_norm": "encoder_attn_layer_norm",
            "feed_norm": "final_layer_norm",
            "feed.up": "fc1",
            "feed.down": "fc2",
        }
        prefix = f"{side}.layers.{int(layer.removeprefix('layer')) - 1}"
        if owner in names:
            return f"{prefix}.{names[owner]}.{tensor}"
        attention, _, part = owner.partition(".")
        outer = {"attention": "self_attn", "source_attention": "encoder_attn"}[attention]
        return f"{prefix}.{outer}.out_proj.{tensor}" if part == "output" else f"{prefix}.{outer}.in_proj_{tensor}"

    # -- inputs --------------------------------------------------------------------------------------

    def example_inputs(
        self, *, batch: int = 1, generator: torch.Generator | None = None, arch: Architecture | None = None
    ) -> tuple[Tensor, ...]:
        """Returns random source ids and target ids without padding, (batch, tokens) each."""
        first = max(self.padding, self.end) + 1
        return tuple(
            torch.randint(min(first, self.vocab_size - 1), self.vocab_size, (batch, n), generator=generator)
            for n in (self.source_tokens, self.target_tokens)
        )

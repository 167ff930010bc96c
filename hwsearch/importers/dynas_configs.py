"""How DyNAS-T writes down sub-networks: its dictionaries as genes of our families."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from search_spaces.genes import Value
from search_spaces.resolution import GENE as RESOLUTION
from search_spaces.supernet import Family

Config = Mapping[str, Any]
Reader = Callable[[Config, Family], dict[str, Value]]
"""(dictionary of a sub-network, family) -> values of genes; genes of parts that do not exist may be among them."""


def _list(config: Config, key: str, least: int) -> Sequence[Any]:
    value = config.get(key)
    if not isinstance(value, list) or len(value) < least:
        raise ValueError(f"{key!r} must be a list of at least {least} values, but got {value!r}.")
    return value


def _one(config: Config, key: str) -> Any:
    value = config.get(key)
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key!r} must be a whole number, alone or in a list, but got {config.get(key)!r}.")
    return value


def _resolution(config: Config, family: Family) -> dict[str, Value]:
    side = _one(config, "r") if config.get("r") is not None else family.input_shape[-1]
    if RESOLUTION in family.space.index:
        return {RESOLUTION: side}
    if side != family.input_shape[-1]:
        raise ValueError(f"'r' must be the family's {family.input_shape[-1]}, but got {side}.")
    return {}


def _mobile(config: Config, family: Family) -> dict[str, Value]:
    """`ks` and `e` for four blocks of each stage, `d` for each stage; a 21st block is at its largest choices."""
    genes: dict[str, Value] = _resolution(config, family)
    depths = [g for g in family.space.genes if g.name.endswith(".depth")]
    genes |= dict(zip((g.name for g in depths), _list(config, "d", len(depths)), strict=False))
    for part, key in (("kernel", "ks"), ("expand", "e")):
        blocks = [g for g in family.space.genes if g.name.endswith(f".{part}")]
        values = _list(config, key, len(depths) * 4)
        for i, gene in enumerate(blocks):
            genes[gene.name] = values[i] if i < len(values) else max(c for c in gene.choices if not isinstance(c, str))
    return genes


def _resnet50(config: Config, family: Family) -> dict[str, Value]:
    """`d` for stem and stages, `e` for all blocks, `w` as indices for stem and stages."""
    genes: dict[str, Value] = _resolution(config, family)
    for suffix, key in ((".depth", "d"), (".expand", "e")):
        names = [g.name for g in family.space.genes if g.name.endswith(suffix)]
        genes |= dict(zip(names, _list(config, key, len(names)), strict=False))
    widths = [g for g in family.space.genes if g.name.endswith((".mid", ".width"))]
    for gene, index in zip(widths, _list(config, "w", len(widths)), strict=False):
        if index not in range(len(gene.choices)):
            raise ValueError(f"'w' must hold indices below {len(gene.choices)}, but got {index!r}.")
        genes[gene.name] = gene.choices[index]
    return genes


HAT_LISTS = {
    "encoder_ffn_embed_dim": "encoder.layer{}.hidden",
    "decoder_ffn_embed_dim": "decoder.layer{}.hidden",
    "encoder_self_attention_heads": "encoder.layer{}.heads",
    "decoder_self_attention_heads": "decoder.layer{}.heads",
    "decoder_ende_attention_heads": "decoder.layer{}.source_heads",
    "decoder_arbitrary_ende_attn": "decoder.layer{}.attend",
}


def _hat(config: Config, family: Family) -> dict[str, Value]:
    names = {
        "encoder_embed_dim": "encoder.dim",
        "decoder_embed_dim": "decoder.dim",
        "decoder_layer_num": "decoder.layers",
    }
    genes: dict[str, Value] = {gene: _one(config, key) for key, gene in names.items()}
    for key, pattern in HAT_LISTS.items():
        genes |= _numbered(pattern, _list(config, key, 1), family)
    return genes


def _encoder(config: Config, family: Family) -> dict[str, Value]:
    """BERT calls the feed-forward width `intermediate_size`, ViT `vit_intermediate_sizes`."""
    hidden = "vit_intermediate_sizes" if "vit_intermediate_sizes" in config else "intermediate_size"
    genes: dict[str, Value] = {"layers": _one(config, "num_layers")}
    genes |= _numbered("layer{}.heads", _list(config, "num_attention_heads", 1), family)
    return genes | _numbered("layer{}.hidden", _list(config, hidden, 1), family)


def _numbered(pattern: str, values: Sequence[Any], family: Family) -> dict[str, Value]:
    names = [pattern.format(i) for i in range(1, len(values) + 1)]
    return {name: value for name, value in zip(names, values, strict=True) if name in family.space.index}


READERS: Mapping[str, Reader] = {
    "ofa_mobilenet_v3": _mobile,
    "ofa_proxyless": _mobile,
    "ofa_resnet50": _resnet50,
    "hat_transformer": _hat,
    "bert": _encoder,
    "vit": _encoder,
}
"""Name of a family -> how its sub-networks are read."""

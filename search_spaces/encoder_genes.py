"""Genes of elastic transformer encoders: number of layers, heads and feed-forward width of each layer."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.genes import Condition, Gene


def layer_condition(depths: Sequence[int], i: int) -> tuple[Condition, ...]:
    """Returns the condition under which layer `i` (from 1) exists: none where it always does."""
    return () if i <= min(depths) else (Condition("layers", tuple(d for d in depths if d >= i)),)


def encoder_genes(depths: Sequence[int], heads: Sequence[int], hidden: Sequence[int]) -> list[Gene]:
    """Returns `layers`, `layer{i}.heads` for all layers and `layer{i}.hidden` for all layers.

    Raises:
        ValueError: no or non-positive choices.
    """
    for name, choices in (("layers", depths), ("heads", heads), ("hidden", hidden)):
        if not choices or min(choices) < 1:
            raise ValueError(f"{name} must list at least one positive choice, but got {list(choices)}.")
    genes = [Gene("layers", tuple(depths))]
    for part, choices in (("heads", heads), ("hidden", hidden)):
        for i in range(1, max(depths) + 1):
            genes.append(Gene(f"layer{i}.{part}", tuple(choices), active_when=layer_condition(depths, i)))
    return genes

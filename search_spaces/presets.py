"""Presets: named sets of a family's sizes, any of which an argument may replace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

Sizes = TypeVar("Sizes")


@dataclass(frozen=True)
class EncoderSizes:
    """Sizes of an elastic transformer encoder.

    Args:
        dim: width of the residual stream. head_size: features per head.
        layers, heads, hidden: choices of depth, of heads and of feed-forward width.
    """

    dim: int
    head_size: int
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    hidden: tuple[int, ...]


def preset_with(presets: Mapping[str, Sizes], name: str, given: Mapping[str, object]) -> Sizes:
    """Returns the preset (a dataclass) called `name`, with every value of `given` that is not None in its place.

    Raises:
        ValueError: unknown name.
    """
    if name not in presets:
        raise ValueError(f"preset must be one of {list(presets)}, but got {name!r}.")
    changes = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items() if v is not None}
    sizes: Any = presets[name]
    changed: Sizes = replace(sizes, **changes)
    return changed

"""Precision as a gene: one per network; and the bytes of a network at each of its choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from search_spaces.genes import Gene
from search_spaces.layers import LayerSpec
from search_spaces.model_bytes import model_bytes

GENE = "precision"
PRECISIONS = ("fp32", "bf16", "int8", "int8-dynamic")


def precision_gene(choices: Sequence[str]) -> Gene:
    """Returns the gene `precision`, which changes no layer: it says what is made of the network.

    Raises:
        ValueError: a choice that is no precision, or none.
    """
    for choice in choices:
        if choice not in PRECISIONS:
            raise ValueError(f"precision must be one of {list(PRECISIONS)}, but got {choice!r}.")
    return Gene(GENE, tuple(choices))


def bytes_at(layers: Sequence[LayerSpec], n: int, precision: str) -> Any:
    """Returns the bytes of all tensors (n,) at a precision, each weight in its smallest encoding.

    As `model_bytes`; with `int8-dynamic` only the weights of linear layers are int8.
    """
    if precision == "int8-dynamic":
        linear = [layer for layer in layers if layer.kind == "linear"]
        others = [layer for layer in layers if layer.kind != "linear"]
        return model_bytes(linear, n, "int8") + model_bytes(others, n, "fp32")
    if precision not in ("fp32", "bf16", "int8"):
        raise ValueError(f"precision must be one of {list(PRECISIONS)}, but got {precision!r}.")
    return model_bytes(layers, n, "bf16" if precision == "bf16" else "int8" if precision == "int8" else "fp32")

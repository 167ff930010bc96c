"""Values in an ONNX graph that is run by torch: tensors, and small host arrays for shapes and constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Host = NDArray[Any]
"""Numbers known without data; dtype object, as a size may be torch's symbol for the open batch."""
Value = Any
"""Tensor, Host, or None for an input that is left out."""


class Unsupported(ValueError):
    """A node that the converter does not know, in one readable line."""


def host(values: Any) -> Host:
    """Returns a host array of Python numbers (or torch's symbols)."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return np.array(values.tolist(), dtype=object).reshape(values.shape)
    return np.array(values, dtype=object)


def numbers(value: Value, what: str) -> list[Any]:
    """Returns a flat list of what must be known without data, such as a shape.

    Raises:
        Unsupported: it depends on data.
    """
    if isinstance(value, Tensor):
        raise Unsupported(f"{what} must not depend on the data, but it does")
    return list(np.asarray(value, dtype=object).ravel())


def tensor(value: Value) -> Tensor:
    """Returns a value as a tensor."""
    if isinstance(value, Tensor):
        return value
    flat = list(value.ravel())
    dtype = torch.float32 if any(isinstance(v, float) for v in flat) else torch.int64
    if flat and all(isinstance(v, bool) for v in flat):
        dtype = torch.bool
    return torch.tensor(flat, dtype=dtype).reshape(value.shape)


def operand(value: Value, beside: Value) -> Any:
    """Returns what to hand to a torch operator: a single number stays a number beside a tensor."""
    if isinstance(value, Tensor):
        return value
    if isinstance(beside, Tensor) and value.size == 1 and value.ndim <= beside.dim():
        return value.ravel()[0]
    return tensor(value)

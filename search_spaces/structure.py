"""Copies of a module's structure: new modules around the same tensors, many times faster than `copy.deepcopy`."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

PLAIN = (int, float, str, bool, bytes, type(None), type, torch.Size, torch.dtype, torch.device)
"""Immutable: copies may share them."""


def copy_structure(module: nn.Module) -> nn.Module:
    """Returns a copy whose parameters and buffers are the same tensor objects: to be replaced, not to be trained.

    Modules that occur twice occur twice in the copy. Attributes that are neither modules, tensors nor plain values
    are deep-copied.
    """
    return _copy(module, {})


def _copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    if id(module) in memo:
        known: nn.Module = memo[id(module)]
        return known
    made = type(module).__new__(type(module))
    memo[id(module)] = made
    own = vars(module)
    for kind in ("_parameters", "_buffers"):
        vars(made)[kind] = own[kind].copy()
        memo.update((id(tensor), tensor) for tensor in own[kind].values())
    vars(made)["_modules"] = {
        name: None if part is None else _copy(part, memo) for name, part in own["_modules"].items()
    }
    # Last, so that attributes that hold modules or tensors find them in the memo.
    for name, value in own.items():
        if name not in vars(made):
            vars(made)[name] = _attribute(value, memo)
    return made


def _attribute(value: object, memo: dict[int, Any]) -> object:
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, tuple) and all(isinstance(entry, PLAIN) for entry in value):
        return value
    if isinstance(value, dict | set | list) and not value:
        return value.copy()
    return copy.deepcopy(value, memo)

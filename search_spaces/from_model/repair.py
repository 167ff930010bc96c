"""Repair: what the remaining weights do about the missing ones, from calibration data and without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from search_spaces.from_model.importance import Batch, unfolded
from search_spaces.from_model.layers_of import layer_of
from search_spaces.from_model.walk import operator_name

if TYPE_CHECKING:
    from search_spaces.from_model.family import FromModel
    from search_spaces.from_model.rebuild import Selection

REPAIRS = ("none", "bias", "least_squares")
RIDGE = 0.01
"""Share of the mean diagonal of the Gram matrix that pulls repaired weights towards the given ones."""


class _Enough(Exception):
    """The layer has run: the rest of the forward pass is not needed."""


@torch.no_grad()
def repair(family: FromModel, module: nn.Module, selection: Selection, batches: Sequence[Batch], *, method: str) -> int:
    """Fits an extracted subnet's layers to the original's outputs, in place, in graph order; returns how many.

    For a layer with input x, and y the original's output of it on the same examples (kept channels only):
    `least_squares` solves min ||x W^T + b - y||^2 + r ||W - W0||^2; `bias` moves b by the mean of what is missing.
    Where the output is added to a residual stream, y is what brings the whole *sum* to the original's, so that a layer
    also makes up for branches before it that are gone. Zeros of sparse weights stay (their columns are solved for
    without them only if a whole column is zero). Source: the closed form of layer-wise reconstruction (He et al. 2017,
    channel pruning; Frantar and Alistarh 2022).

    Args:
        family: of the subnet.
        module: extracted; changed.
        selection: of its architecture.
        batches: calibration inputs.
        method: `bias` or `least_squares`.
    """
    layers = {path: m for path, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    readers = family.residual_readers()
    done = 0
    for path in family.repair_order(selection):
        layer = layers.get(path)
        if layer is None or getattr(layer, "groups", 1) != 1 or bool((layer.weight == 0).any()):
            continue
        reader = next((r for r in readers.get(path, ()) if _has(module, r)), None)
        rows, missing = [], []
        for number, batch in enumerate(batches):
            x, y, now = seen(module, batch, path, reader)
            if reader is None:
                wanted = family.original(path, number, batch, side="output")
                label = family.state.parameters[f"{path}.weight"][0]
                if label is not None:
                    wanted = wanted.index_select(-1 if isinstance(layer, nn.Linear) else 1, _kept(selection, label))
                lack = wanted - y
            else:
                read = family.original(reader, number, batch, side="input")
                if read.shape != now.shape:
                    label = family.state.parameters[f"{path}.weight"][0]
                    assert label is not None
                    read = read.index_select(-1 if isinstance(layer, nn.Linear) else 1, _kept(selection, label))
                lack = read - now
            rows.append(unfolded(layer, x).double())
            missing.append(
                (lack if isinstance(layer, nn.Linear) else lack.movedim(1, -1)).reshape(-1, len(layer.weight)).double()
            )
        _solve(layer, torch.cat(rows), torch.cat(missing), method)
        done += 1
    return done


def _solve(layer: nn.Linear | nn.Conv2d, x: Tensor, lack: Tensor, method: str) -> None:
    """Adds the ridge solution D of x D^T + d = lack to the layer; of `bias`, only d."""
    if not torch.isfinite(lack).all():
        return
    if method == "bias" or layer.bias is None:
        centre_x, centre_y = torch.zeros(x.shape[1], dtype=x.dtype), torch.zeros(lack.shape[1], dtype=x.dtype)
    else:
        centre_x, centre_y = x.mean(0), lack.mean(0)
    if method == "bias":
        if layer.bias is not None:
            layer.bias += lack.mean(0).to(layer.bias.dtype)
        return
    centred = x - centre_x
    gram = centred.T @ centred
    gram.diagonal().add_(RIDGE * gram.diagonal().mean() + 1e-9)
    delta = torch.linalg.solve(gram, centred.T @ (lack - centre_y)).T
    layer.weight += delta.reshape(layer.weight.shape).to(layer.weight.dtype)
    if layer.bias is not None:
        layer.bias += (centre_y - delta @ centre_x).to(layer.bias.dtype)


def seen(module: nn.Module, batch: Batch, path: str, reader: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns input and output of a layer on a batch and the input of a later one; what comes after is not run.

    Without `reader` the third is the output.
    """
    found: dict[str, Tensor] = {}

    def look(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found["input"], found["output"] = inputs[0], output
        if reader is None:
            raise _Enough

    def reach(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found["read"] = inputs[0]
        raise _Enough

    handles = [module.get_submodule(path).register_forward_hook(look)]
    if reader is not None:
        handles.append(module.get_submodule(reader).register_forward_pre_hook(reach))
    try:
        module(*batch)
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found["input"], found["output"], found.get("read", found["output"])


def _kept(selection: Selection, label: Any) -> Tensor:
    return torch.from_numpy(selection.keep[label].nonzero()[0])


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def residual_readers(family: FromModel) -> dict[str, tuple[str, ...]]:
    """Returns layer -> layers that read the sum to which its output is added, in graph order."""
    found: dict[str, tuple[str, ...]] = {}
    paths = family.captured.paths
    for node in family.captured.graph.nodes:
        if node.op != "call_function" or operator_name(node) not in {"linear", "conv2d"}:
            continue
        end = node
        while len(end.users) == 1 and operator_name(next(iter(end.users))) in {"dropout", "batch_norm"}:
            end = next(iter(end.users))
            if operator_name(end) == "batch_norm":
                break
        users = list(end.users)
        if operator_name(end) == "batch_norm" or len(users) != 1 or operator_name(users[0]) != "add":
            continue
        readers = [
            paths[user]
            for user in users[0].users
            if layer_of(family.captured, user) is not None and user.args[0] is users[0]
        ]
        if readers:
            found[paths[node]] = tuple(readers)
    return found

"""Importance: which channels and heads stay longest, by criteria with and without calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from search_spaces.from_model.activations import Batch, fitted, unfolded
from search_spaces.from_model.groups import energies
from search_spaces.from_model.obs import removal_order
from search_spaces.from_model.units import Label

if TYPE_CHECKING:
    from search_spaces.from_model.family import FromModel

CRITERIA = ("magnitude", "group", "bn_scale", "taylor", "wanda", "obs")
WITH_DATA = frozenset({"taylor", "wanda", "obs"})


def importance(family: FromModel, criterion: str, batches: Sequence[Batch] = ()) -> NDArray[np.float64]:
    """Returns the importance of every unit of a family, (entries,), for `FromModel.order_by`.

    | criterion | a unit's score |
    |---|---|
    | `magnitude` | L1 norm of the weights that make it (Li et al. 2017) |
    | `group` | squared norms of all weights that make or read it, each divided by its tensor's mean |
    | `bn_scale` | absolute scale of its BatchNorms (Liu et al. 2017); `magnitude` where there is none |
    | `taylor` | sum of (w g)^2 (Molchanov et al. 2019), g of random projections of the output: no labels needed |
    | `wanda` | squared norm of its activation times that of the weights that read it (after Sun et al. 2023) |
    | `obs` | how long it stays when units go one after the other, each time the one that the layers that read it
      miss least once the others make up for it (OBS, SparseGPT; see `obs.removal_order`) |

    The last three need calibration data. A unit without score of its own (a width that no linear layer reads) keeps
    its magnitude, scaled far down.

    Args:
        family: whose units.
        criterion: name.
        batches: calibration inputs, each as the model takes them.

    Raises:
        ValueError: unknown criterion, or no data for one that needs them.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"importance must be one of {list(CRITERIA)}, but got {criterion!r}.")
    if criterion in WITH_DATA and not batches:
        raise ValueError(f"importance {criterion!r} must have calibration data, but got none.")
    weights = {n: w.detach().double() for n, w in family.weights().items()}
    state, units = family.state, family.units

    def score(table: dict[str, Tensor], *dims: int) -> NDArray[np.float64]:
        return energies(state, units, {n: t.numpy() for n, t in table.items()}, dims=dims or None)

    made = score({n: w.abs() for n, w in weights.items()}, 0)
    if criterion == "magnitude":
        return made
    if criterion == "group":
        return score({n: w.square() for n, w in weights.items()})
    if criterion == "bn_scale":
        found = np.zeros(len(units.of))
        for path, layer in family.captured.module.named_modules():
            axes = state.parameters.get(f"{path}.weight", (None,))
            if isinstance(layer, _BatchNorm) and axes[0] is not None:
                np.add.at(found, units.of[axes[0]], layer.weight.detach().abs().double().numpy())
        return np.where(found > 0, found, made * 1e-9)
    if criterion == "taylor":
        squares = _projected_gradients(family, batches)
        return score({n: weights[n].square() * g for n, g in squares.items()}) + made * 1e-9
    read = [n for n in weights if len(state.parameters[n]) > 1 and _shrinks(family, state.parameters[n][1])]
    if criterion == "obs":
        grams = input_grams(family, read, batches)
        return removal_order(family, {n: weights[n] for n in grams}, grams) + score_below_one(made)
    table = {}
    for name, gram in input_grams(family, read, batches, diagonal=True).items():
        per_input = gram.reshape(weights[name].shape[1], -1).sum(1)
        table[name] = weights[name].square() * per_input.view(1, -1, *[1] * (weights[name].dim() - 2))
    return score(table, 1) + made * 1e-9


def _shrinks(family: FromModel, label: Label | None) -> bool:
    """Whether some of an axis can go."""
    units = np.concatenate([g.units for g in family.groups]) if family.groups else np.zeros(0, dtype=np.int64)
    return label is not None and bool(np.isin(family.units.of[label], units).any())


def score_below_one(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns scores scaled into [0, 1): they decide only between units of the same rank."""
    top = float(scores.max(initial=0.0))
    return scores / (top * 1.001) if top > 0 else scores


def input_grams(
    family: FromModel, names: Sequence[str], batches: Sequence[Batch], *, diagonal: bool = False
) -> dict[str, Tensor]:
    """Returns weight -> sum of w x x^T over examples and positions, (inputs * kernel, same), of linear and 2-D layers.

    w are the sensitivities of the layer's output rows; a layer that runs twice counts with its first run.

    Args:
        family: of the original.
        names: of weights.
        batches: calibration inputs.
        diagonal: only the diagonals, (inputs * kernel,).
    """
    found: dict[str, Tensor] = {}
    handles = []
    sensitivity = family.row_weights(batches)
    taken: dict[str, int] = {}
    for path, layer in family.captured.module.named_modules():
        name = f"{path}.weight"
        if fitted(layer) and name in names and path in sensitivity:

            def collect(module: nn.Module, inputs: tuple[Tensor, ...], name: str = name, path: str = path) -> None:
                x = unfolded(module, inputs[0])
                start = taken.get(name, 0)
                w = sensitivity[path][start : start + len(x)]
                taken[name] = start + len(x)
                x, w = x[: len(w)][w > 0], w[w > 0, None]
                one = (w * x.square()).sum(0) if diagonal else (x * w).T @ x
                found[name] = found.get(name, 0) + one.double()

            handles.append(layer.register_forward_pre_hook(collect))
    try:
        with torch.no_grad():
            for batch in batches:
                family.captured.module(*batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _projected_gradients(family: FromModel, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Returns squared gradients of random projections of the first output, summed: no labels are needed."""
    module = family.captured.module
    generator = torch.Generator().manual_seed(0)
    names = {id(v): n for n, v in family.weights().items()}
    parameters = [p for p in module.parameters() if id(p) in names]
    total = {names[id(p)]: torch.zeros_like(p, dtype=torch.float64) for p in parameters}
    for batch in batches:
        out = family.first_output(module(*batch))
        direction = torch.randn(out.shape, generator=generator, dtype=out.dtype)
        grads = torch.autograd.grad((out * direction).sum(), parameters, allow_unused=True)
        for p, g in zip(parameters, grads, strict=True):
            if g is not None:
                total[names[id(p)]] += g.double().square()
    return total

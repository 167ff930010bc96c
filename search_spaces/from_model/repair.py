"""Repair: what the remaining weights do about the missing ones, from calibration data and without training."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from search_spaces.from_model.activations import Originals, fitted, unfolded
from search_spaces.from_model.least_squares import solve
from search_spaces.from_model.rebuild import rebuild

if TYPE_CHECKING:
    from search_spaces.from_model.family import FromModel
    from search_spaces.from_model.rebuild import Selection

REPAIRS = ("none", "bias", "least_squares")


@torch.no_grad()
def repair(family: FromModel, module: nn.Module, selection: Selection, wanted: Originals, *, method: str) -> int:
    """Fits an extracted subnet's layers to the original's activations, in place, in one pass; returns how many.

    For a layer with input x in the subnet (repaired up to there), and y the original's output of it on the same
    examples (kept channels only): `least_squares` solves
    min sum_r w_r |x W^T + b - y|^2 + ridge |W - W0|^2; `bias` moves b by
    the mean of what is missing. Where the output is added to a residual stream, y is what brings the whole *sum* to
    what its reader saw in the original, so that a layer makes up for branches that are gone. w are the rows'
    sensitivities. Zeros of sparse weights stay zero: the regression is over the kept entries. Source: layer-wise
    reconstruction (He et al. 2017, channel pruning, eq. 5; Frantar and Alistarh 2022).

    Args:
        family: of the subnet.
        module: extracted; changed.
        selection: of its architecture.
        wanted: activations of the original.
        method: `bias` or `least_squares`.
    """
    with torch.device("meta"):
        graph = rebuild(family.state, selection, name="subnet").graph
    walk = _Repair(family, module, selection, wanted, graph=graph, method=method)
    walk.run(*wanted.batch)
    return walk.done


class _Repair(fx.Interpreter):
    """Runs a subnet on the calibration data and fits every layer when the run comes to it."""

    def __init__(
        self,
        family: FromModel,
        module: nn.Module,
        selection: Selection,
        wanted: Originals,
        *,
        graph: fx.Graph,
        method: str,
    ) -> None:
        super().__init__(module, graph=graph)  # any module will do beside a graph
        self.family, self.selection, self.wanted, self.method = family, selection, wanted, method
        self.order = set(family.repair_order(selection))
        self.waiting: dict[fx.Node, tuple[str, nn.Linear | nn.Conv2d, Tensor, str]] = {}  # by the sum behind a layer
        self.done = 0

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.waiting:
            path, layer, x, reader = self.waiting.pop(n)
            change = self.fit(path, layer, x, self.wanted.sums[reader] if reader else None, now=value)
            return value if change is None else value + change
        if n.op != "call_module" or str(n.target) not in self.order:
            return value
        path = str(n.target)
        x = self.fetch_args_kwargs_from_env(n)[0][0]
        part = self.fetch_attr(path)
        if isinstance(part, nn.Sequential):  # two factors: the second is fitted
            x, part = part.get_submodule("reduce")(x), part.get_submodule("expand")
        if not fitted(part):
            return value
        assert isinstance(part, nn.Linear | nn.Conv2d)
        total, reader = self.sum_behind(n)
        if total is not None:
            self.waiting[total] = (path, part, x, reader)
            return value
        change = self.fit(path, part, x, self.wanted.outputs.get(path), now=value)
        return value if change is None else value + change

    def sum_behind(self, node: fx.Node) -> tuple[fx.Node | None, str]:
        """Returns the residual sum that a layer's output goes into, and a layer that reads this sum."""
        users = list(node.users)
        if len(users) == 1 and users[0].target in {operator.add, torch.ops.aten.add.Tensor}:
            for user in users[0].users:
                if user.op == "call_module" and user.args[0] is users[0] and str(user.target) in self.wanted.sums:
                    return users[0], str(user.target)
        return None, ""

    def fit(
        self, path: str, layer: nn.Linear | nn.Conv2d, x: Tensor, goal: Tensor | None, *, now: Tensor
    ) -> Tensor | None:
        """Changes a layer so that `now` comes closer to the original's; returns by how much it did, like `now`."""
        present = self.wanted.kept.out(now, of=layer)
        if goal is None or path not in self.wanted.weights or len(goal) != len(present):
            return None
        if goal.shape[1] != present.shape[1]:
            label = self.family.state.parameters[f"{path}.weight"][0]
            if label is None:
                return None
            goal = goal[:, torch.from_numpy(self.selection.keep[label].nonzero()[0])]
        lack, weights = goal - present, self.wanted.weights[path]
        if not torch.isfinite(lack).all():
            return None
        self.done += 1
        if self.method == "bias":
            if layer.bias is None:
                return None
            shift = (weights[:, None] * lack).sum(0) / weights.sum()
            layer.bias += shift
            return shift.view(-1, *[1] * (now.dim() - 2)) if isinstance(layer, nn.Conv2d) else shift
        flat = unfolded(layer, x)
        sparse = layer.weight == 0
        kept = ~sparse.flatten(1) if bool(sparse.any()) else None
        x_kept = self.wanted.kept.of(flat)
        delta, shift = solve(x_kept, lack, weights=weights, bias=layer.bias is not None, kept=kept)
        delta = delta.reshape(layer.weight.shape)
        layer.weight += delta
        if layer.bias is not None:
            layer.bias += shift
        offset = None if layer.bias is None else shift
        if isinstance(layer, nn.Linear):
            return F.linear(x, delta, offset)
        return F.conv2d(x, delta, offset, layer.stride, layer.padding, layer.dilation)

"""Graph network: messages along the layers of a net, so that what a layer costs may depend on its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from predictors.amounts import FREE, operator_kind
from predictors.base import (
    FloatArray,
    LayerFunction,
    Prediction,
    Predictor,
    Sources,
    State,
    check_fit_data,
    check_stds,
    not_fitted,
)
from predictors.features import reference_rows
from predictors.model import calibrate, quantile
from predictors.regression import HeldOut, fold_of, precision_weights
from search_spaces.space import Population, SearchSpace

MEMBERS = 4
CHUNK = 512
"""Architectures whose graphs are in memory at once."""


@dataclass(frozen=True)
class _Graph:
    """Layers of n nets: features (n, layers, f), existence (n, layers), the one before and after each (n, layers)."""

    nodes: Tensor
    there: Tensor
    before: Tensor
    after: Tensor

    def only(self, rows: Tensor) -> _Graph:
        return _Graph(self.nodes[rows], self.there[rows], self.before[rows], self.after[rows])


class GraphNetwork(Predictor):
    """value = sum over layers of a small network of what the layer and its neighbours are, plus a constant.

    Nodes are layers, edges join each with the existing ones before and after it; two rounds of messages, sums over
    nodes (Gilmer et al. 2017; per-layer sums as in Dudziak et al. 2020, BRP-NAS, fit latencies, which nearly add up).
    Four members leave one fold out each; they give the deviation and the held-out errors.

    Args:
        space: of the populations.
        layers: of the space's networks.
        width: hidden values of a node.
        steps: of AdamW, each on at most 256 rows.
        seed: of weights and batches.
    """

    kind = "graph"

    def __init__(
        self, space: SearchSpace, *, layers: LayerFunction, width: int = 24, steps: int = 300, seed: int = 0
    ) -> None:
        super().__init__(space)
        if width < 1 or steps < 1:
            raise ValueError(f"width and steps must be at least 1, but got {width} and {steps}.")
        self.layers, self.width, self.steps, self.seed = layers, width, steps, seed
        rows = reference_rows(space)
        self.kinds = tuple(dict.fromkeys(operator_kind(s) for s in layers(rows) if s.kind not in FREE))
        raw, there = self._raw(rows)
        seen = raw[there]
        self._middle, self._scale = seen.mean(axis=0), np.maximum(seen.std(axis=0), 1e-6)
        self._arrays: dict[str, NDArray[Any]] = {}

    def _raw(self, rows: Population) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Returns features (n, layers, f) and existence (n, layers)."""
        n = len(rows)
        nodes, there = [], []
        layers = [s for s in self.layers(rows) if s.kind not in FREE]
        for place, layer in enumerate(layers):
            moved = layer.inputs * layer.positions_in + layer.outputs * layer.positions
            sizes = [np.log1p(np.asarray(v, dtype=np.float64)) for v in (layer.macs(), moved, layer.parameters())]
            hot = [float(operator_kind(layer) == kind) for kind in self.kinds]
            values = [*sizes, np.asarray(layer.kernel, dtype=np.float64) / 7, place / len(layers), *hot]
            nodes.append(np.stack([np.broadcast_to(np.asarray(v, dtype=np.float64), (n,)) for v in values], axis=1))
            there.append(np.broadcast_to(np.asarray(layer.active, dtype=bool), (n,)))
        return np.stack(nodes, axis=1), np.stack(there, axis=1)

    def _graph(self, rows: Population) -> _Graph:
        raw, there = self._raw(rows)
        count = there.shape[1]
        place = np.where(there, np.arange(count), -1)
        before = np.maximum.accumulate(place, axis=1)
        before = np.concatenate([np.full((len(rows), 1), -1), before[:, :-1]], axis=1)
        place = np.where(there, np.arange(count), count)
        after = np.minimum.accumulate(place[:, ::-1], axis=1)[:, ::-1]
        after = np.concatenate([after[:, 1:], np.full((len(rows), 1), count)], axis=1)
        after = np.where(after == count, -1, after)
        nodes = (raw - self._middle) / self._scale
        return _Graph(
            torch.from_numpy(nodes).float(), torch.from_numpy(there), torch.from_numpy(before), torch.from_numpy(after)
        )

    def fit(self, population: Population, values: FloatArray, *, stds: FloatArray | None = None) -> GraphNetwork:
        """Returns self, fitted; see `Predictor.fit`."""
        rows, values = check_fit_data(self.space, population, values)
        weight = torch.from_numpy(precision_weights(check_stds(stds, len(rows)), values)).float()
        fold = fold_of(np.unique(rows, axis=0, return_inverse=True)[1].ravel(), MEMBERS)
        level, spread = float(values.mean()), float(values.std())
        y = torch.from_numpy((values - level) / spread).float()
        graph = self._graph(rows)
        # Member i sees all folds but i; with fewer folds than members some see all.
        seen = torch.from_numpy(fold[None] != np.arange(MEMBERS)[:, None])
        seen[seen.sum(1) < 2] = True
        parameters = self._train(graph, y, weight * seen)
        with torch.no_grad():
            answers = _answer(graph, parameters).double().numpy()  # (members, n)
        held = level + spread * answers[fold, np.arange(len(values))]
        error = max(float(np.sqrt(np.mean((held - values) ** 2))), 1e-9 * spread)
        stretch, scores = calibrate(HeldOut(held, np.full(len(values), error)), values)
        self._arrays = {
            **{f"parameter.{i}": p.detach().numpy() for i, p in enumerate(parameters)},
            "scalars": np.array([level, spread, error * stretch]),
            "scores": scores,
        }
        return self

    def _train(self, graph: _Graph, y: Tensor, weight: Tensor) -> list[Tensor]:
        """Returns the parameters, each with a first axis of members; `weight` is (members, n), 0 = left out."""
        generator = torch.Generator().manual_seed(self.seed)
        f, h = graph.nodes.shape[2], self.width
        shapes = [(f, h), (h, h), (h, h), (h, h), (h, h), (h, h), (h, h), (h, 1)]
        parameters = [torch.randn(MEMBERS, a, b, generator=generator) / a**0.5 for a, b in shapes]
        parameters[-1] *= 0.1 / graph.nodes.shape[1] ** 0.5  # the sum over layers starts small
        parameters += [torch.zeros(MEMBERS, 1, 1, size) for size in (h, h, h, 1)]
        parameters = [p.requires_grad_() for p in parameters]
        optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=self.steps)
        for _ in range(self.steps):
            some = torch.randperm(len(y), generator=generator)[:256]
            error = (_answer(graph.only(some), parameters) - y[some]) ** 2
            share = weight[:, some] / weight[:, some].sum(1, keepdim=True).clamp(min=1e-9)
            optimizer.zero_grad()
            (share * error).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        return parameters

    def predict(self, population: Population) -> Prediction:
        """Returns mean and deviation, each (n,); see `Predictor.predict`."""
        if not self._arrays:
            raise not_fitted(self)
        rows = self.space.canonical(population)
        level, spread, error = (float(v) for v in self._arrays["scalars"])
        parameters = [torch.from_numpy(self._arrays[f"parameter.{i}"]) for i in range(12)]
        means = np.empty((MEMBERS, len(rows)))
        with torch.no_grad():
            for start in range(0, len(rows), CHUNK):
                part = rows[start : start + CHUNK]
                means[:, start : start + CHUNK] = _answer(self._graph(part), parameters).double().numpy()
        return Prediction(level + spread * means.mean(axis=0), np.hypot(error, spread * means.std(axis=0)))

    def ends(self, prediction: Prediction, level: float = 0.9) -> tuple[FloatArray, FloatArray]:
        """Returns ends, each (n,), from held-out errors; see `Predictor.ends`."""
        half = prediction.std * quantile(self._arrays["scores"], level)
        return prediction.mean - half, prediction.mean + half

    def state(self) -> State:
        """Returns what was learned; see `Predictor.state`."""
        if not self._arrays:
            raise not_fitted(self)
        arrays = {**self._arrays, "middle": self._middle, "scale": self._scale}
        settings = {"width": self.width, "steps": self.steps, "seed": self.seed, "kinds": list(self.kinds)}
        return State(arrays, settings)

    @classmethod
    def from_state(cls, space: SearchSpace, state: State, *, sources: Sources) -> GraphNetwork:
        """Returns the fitted predictor; see `Predictor.from_state`."""
        if sources.layers is None:
            raise ValueError("a graph network must be loaded with the layers of the space's networks, but got none.")
        settings: Mapping[str, Any] = state.settings
        model = cls(
            space, layers=sources.layers, width=settings["width"], steps=settings["steps"], seed=settings["seed"]
        )
        if list(model.kinds) != list(settings["kinds"]):
            raise ValueError(
                f"the layers must be of the operator kinds {list(settings['kinds'])} that the predictor was fitted "
                f"with, but they are {list(model.kinds)}."
            )
        arrays = dict(state.arrays)
        model._middle, model._scale = arrays.pop("middle"), arrays.pop("scale")
        model._arrays = arrays
        return model


def _answer(graph: _Graph, parameters: list[Tensor]) -> Tensor:
    """Returns standardised values (members, n)."""
    first, own1, before1, after1, own2, before2, after2, last, b0, b1, b2, constant = parameters
    there = graph.there[..., None]
    h = F.silu(graph.nodes @ first[:, None] + b0) * there  # (members, n, layers, width)
    for own, before, after, bias in ((own1, before1, after1, b1), (own2, before2, after2, b2)):
        message = h @ own[:, None] + _taken(h, graph.before) @ before[:, None] + _taken(h, graph.after) @ after[:, None]
        h = h + F.silu(message + bias) * there
    return ((h @ last[:, None]) * there).sum(dim=(2, 3)) + constant[:, :, 0, 0]


def _taken(h: Tensor, place: Tensor) -> Tensor:
    """Returns the nodes' values at places (n, layers); 0 where a place is -1."""
    found = torch.gather(h, 2, place.clamp(min=0)[None, :, :, None].expand(len(h), -1, -1, h.shape[3]))
    return found * (place >= 0)[..., None]

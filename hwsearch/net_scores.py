"""NetScores: zero-cost scores of a space's untrained networks, as features of predictors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hwsearch.zero_cost import SCORES, scores
from predictors.base import FloatArray
from search_spaces.architecture import Architecture
from search_spaces.resolution import ImageFamily
from search_spaces.space import Population
from search_spaces.supernet import Supernet

MOST_KEPT = 100_000
"""Architectures whose scores are remembered; a service that is asked for years should not grow."""
LEAST_SIDE = 16


@dataclass
class _Shared:
    """What `NetScores` of different columns share: the weighted super-network, its classes, scores by row."""

    made: Supernet | None = None
    n_classes: int | None = None
    known: dict[bytes, dict[str, float]] = field(default_factory=dict)


class NetScores:
    """The scores of a population's untrained networks (`predictors.base.ScoreFunction`), remembered for each network.

    Weights come from a super-network's seeded start, inputs and targets are seeded noise: no data are needed, and
    whoever has the super-network's description gets the same numbers. Few examples and pixels will do, as the scores
    compare networks and are no estimates of anything (benchmarks/predictors).

    Args:
        supernet: whose networks are meant; its own weights are not used, so that it may be without storage.
        columns: names out of `zero_cost.SCORES`; only these are computed.
        batch: inputs that a network is scored on.
        side: of the images where networks take any: the largest resolution becomes this, smaller ones in proportion.
        seed: of weights and inputs.
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        columns: Sequence[str] = SCORES,
        batch: int = 8,
        side: int = 64,
        seed: int = 0,
    ) -> None:
        if batch < 2:
            raise ValueError(f"batch must be at least 2, but got {batch}.")
        if side < LEAST_SIDE:
            raise ValueError(f"side must be at least {LEAST_SIDE}, but got {side}.")
        unknown = [name for name in columns if name not in SCORES]
        if unknown or not columns or len(set(columns)) < len(columns):
            raise ValueError(f"scores must be distinct and out of {', '.join(SCORES)}, but got {', '.join(columns)}.")
        self.supernet, self.columns = supernet, tuple(columns)
        self.batch, self.side, self.seed = batch, side, seed
        self._shared = _Shared()

    def only(self, columns: Sequence[str]) -> NetScores:
        """Returns the same with other columns; what one of both has computed, the other knows.

        Raises:
            ValueError: unknown names.
        """
        other = NetScores(self.supernet, columns=columns, batch=self.batch, side=self.side, seed=self.seed)
        other._shared = self._shared
        return other

    @property
    def digest(self) -> str:
        """Of what the numbers depend on: genes, shapes of all weights, MACs, batch, side and seed."""
        net = self.supernet
        shapes = {name: list(tensor.shape) for name, tensor in net.tensors().items()}
        macs = [float(net.layer_costs(arch).macs[0]) for arch in (net.space.smallest(), net.space.largest())]
        given = [net.space.fingerprint, shapes, macs, list(net.family.input_shape), self.batch, self.side, self.seed]
        return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:16]

    def __call__(self, population: Population) -> FloatArray:
        """Returns the scores (n, columns) of a population (n, g).

        Raises:
            ValueError: networks that do not map one input to class logits.
        """
        space = self.supernet.space
        rows = space.canonical(population)
        out = np.empty((len(rows), len(self.columns)))
        for i, row in enumerate(rows):
            key = row.tobytes()
            known = self._shared.known.get(key, {})
            missing = [name for name in self.columns if name not in known]
            if missing:
                known = {**known, **self._score(space.architecture(row), missing)}
                if len(self._shared.known) >= MOST_KEPT:
                    self._shared.known.clear()
                self._shared.known[key] = known
            out[i] = [known[name] for name in self.columns]
        return out

    def _score(self, arch: Architecture, names: Sequence[str]) -> dict[str, float]:
        net, shared = self.supernet, self._shared
        inputs = self._inputs(arch)
        if shared.made is None:
            shared.made = Supernet(net.family, sparsity=net.sparsity, precisions=net.precisions, seed=self.seed)
        module = shared.made.extract(arch)
        if shared.n_classes is None:
            with torch.no_grad():
                logits = module(inputs)
            if not isinstance(logits, Tensor) or logits.ndim != 2:
                raise ValueError("zero-cost scores must be of networks that answer class logits, but these do not.")
            shared.n_classes = logits.shape[1]
        targets = torch.arange(self.batch) % shared.n_classes
        return scores(module, inputs, targets=targets, only=names)

    def _inputs(self, arch: Architecture) -> Tensor:
        """Returns noise (batch, ...) as the network takes it."""
        family = self.supernet.family
        generator = torch.Generator().manual_seed(self.seed)
        examples = family.example_inputs(batch=2, generator=generator, arch=arch)
        if len(examples) != 1 or not examples[0].is_floating_point():
            raise ValueError("zero-cost scores must be of networks with one input of numbers, but these take others.")
        shape = list(examples[0].shape[1:])
        if isinstance(family, ImageFamily):  # these end in global pooling
            share = min(1.0, self.side / family.input_shape[1])
            shape[1:] = [min(s, max(LEAST_SIDE, round(s * share))) for s in shape[1:]]
        return torch.randn(self.batch, *shape, generator=generator)

"""Warm start: trials of other runs and devices, as hints and never as truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsearch import pareto
from hwsearch.engines.encoding import Encoding
from hwsearch.engines.surrogate import Posterior, fit
from search_spaces.populations import unique_rows
from search_spaces.space import Population, SearchSpace

FloatArray = NDArray[np.float64]

MIN_LABELS = 6
MAX_LABELS = 300


@dataclass(frozen=True)
class Source:
    """Trials from elsewhere, in the search's space.

    Args:
        name: of the run or device, for messages.
        genotypes: (n, g) canonical rows.
        losses: (n, m) in the order of the search's objectives, NaN where a label is missing. A column need not be in
            the search's unit, nor on its device: only how it varies with the architecture is used.
    """

    name: str
    genotypes: Population
    losses: FloatArray

    def __post_init__(self) -> None:
        if self.genotypes.ndim != 2 or self.losses.ndim != 2 or len(self.genotypes) != len(self.losses):
            raise ValueError(
                f"source {self.name!r} must have one row of losses per genotype, "
                f"but got {self.losses.shape} and {self.genotypes.shape}."
            )


def check_sources(sources: Sequence[Source], space: SearchSpace, n_objectives: int) -> tuple[Source, ...]:
    """Returns the sources, canonical.

    Raises:
        ValueError: other genes or another number of objectives.
    """
    checked = []
    for source in sources:
        if source.losses.shape[1] != n_objectives:
            raise ValueError(
                f"source {source.name!r} must have {n_objectives} losses, but got {source.losses.shape[1]}."
            )
        try:
            rows = space.canonical(source.genotypes)
        except ValueError as error:
            raise ValueError(f"source {source.name!r}: {error}") from error
        checked.append(Source(source.name, rows, source.losses))
    return tuple(checked)


def seeds(sources: Sequence[Source], count: int) -> Population:
    """Returns up to `count` distinct rows of the sources' fronts, spread by crowding, the sources taking turns.

    A source that lacks a label in some column counts with the columns it has.
    """
    queues: list[Population] = []
    for source in sources:
        columns = np.isfinite(source.losses).any(axis=0)
        known = np.isfinite(source.losses[:, columns]).all(axis=1)
        if not columns.any() or not known.any():
            continue
        losses, rows = source.losses[known][:, columns], source.genotypes[known]
        front = pareto.front(losses)
        crowd = pareto.crowding(losses[front])
        queues.append(rows[front][np.argsort(-crowd, kind="stable")])
    if not queues:
        return np.zeros((0, sources[0].genotypes.shape[1] if sources else 0), dtype=np.uint8)
    turns = [queue[i : i + 1] for i in range(max(map(len, queues))) for queue in queues]
    return unique_rows(np.concatenate(turns))[:count]


class SourceModel:
    """A source's loss anywhere: the mean of a surrogate fitted on it. One more column for the search's surrogates.

    They learn from their own labels how much it says about the search's loss (its slope may be near 0), which is how
    another device is an extra task instead of wrong labels.

    Args:
        encoding: without outside columns.
        rows: (n, g) labelled rows of the source.
        values: (n,) finite labels.
    """

    def __init__(self, encoding: Encoding, rows: Population, values: FloatArray) -> None:
        if len(rows) > MAX_LABELS:
            # The best half, where searches look; the rest evenly over the others.
            order = np.argsort(values, kind="stable")
            half = MAX_LABELS // 2
            others = np.linspace(half, len(order) - 1, MAX_LABELS - half).round().astype(np.intp)
            keep = np.sort(np.concatenate([order[:half], order[others]]))
            rows, values = rows[keep], values[keep]
        self._encoding = encoding
        features, unknown = encoding.features(rows), np.full(len(rows), np.nan)
        hyper = fit(encoding.inside_maps, features, values, stds=unknown)
        self._posterior = Posterior(encoding.inside_maps, hyper, features, values, stds=unknown)

    def __call__(self, population: Population) -> FloatArray:
        """Returns the mean of the source's warped loss (n, 1)."""
        return self._posterior.mean(self._encoding.features(population))[:, None]


def source_models(sources: Sequence[Source], encoding: Encoding, column: int) -> list[SourceModel]:
    """Returns one model per source with enough labels of a column."""
    models = []
    for source in sources:
        values = source.losses[:, column]
        known = np.isfinite(values)
        if known.sum() >= MIN_LABELS and np.ptp(values[known]) > 0:
            models.append(SourceModel(encoding, source.genotypes[known], values[known]))
    return models

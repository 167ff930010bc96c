"""Where a predictor has been: the gene values it was fitted on and the deviations it had on rows it had not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.base import FloatArray
from search_spaces.space import Population, SearchSpace

NOTE = "training_range"
"""Its place in `Card.notes`."""


@dataclass(frozen=True)
class TrainingRange:
    """What counts as inside: every active gene holds a value that occurred, and the deviation is none of a stranger's.

    Args:
        seen: (g, largest number of choices): which choices occurred in training rows while their gene was active.
        std_max: the largest deviation of a cross-validated prediction of a training row, in the predictor's unit; NaN
            when not known, and then only gene values count. (Deviations of rows that a model was fitted on would not
            do: a Gaussian process has hardly any there, and would call every other row a stranger.)
    """

    seen: NDArray[np.bool_]
    std_max: float = math.nan

    @classmethod
    def of(cls, space: SearchSpace, population: Population, *, stds: FloatArray | None = None) -> TrainingRange:
        """Returns the range of training rows (n, g) and of the deviations (n,) of their cross-validated predictions."""
        rows = space.canonical(population)
        active = space.active(rows)
        seen = np.zeros((space.n_genes, int(space.n_choices.max())), dtype=np.bool_)
        for gene in range(space.n_genes):
            seen[gene, rows[active[:, gene], gene]] = True
        known = np.zeros(0) if stds is None else np.asarray(stds, dtype=np.float64)
        known = known[np.isfinite(known)]
        return cls(seen, float(known.max()) if len(known) else math.nan)

    def outside(self, space: SearchSpace, population: Population, *, stds: FloatArray) -> NDArray[np.bool_]:
        """Returns which canonical rows (n,) hold a gene value never seen, or have a deviation above `std_max`."""
        strange = ~self.seen[np.arange(space.n_genes), population] & space.active(population)
        flag = strange.any(axis=1)
        if not math.isnan(self.std_max):
            flag |= stds > self.std_max * (1 + 1e-9)
        return np.asarray(flag, dtype=np.bool_)

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON: the choice indices seen, by gene in the space's order, and the largest deviation."""
        seen = [np.flatnonzero(row).tolist() for row in self.seen]
        return {"seen": seen, "std_max": None if math.isnan(self.std_max) else self.std_max}

    @classmethod
    def from_notes(cls, space: SearchSpace, notes: Mapping[str, Any]) -> TrainingRange | None:
        """Returns the range in a card's notes; None where there is none.

        Raises:
            ValueError: something else stands there.
        """
        source = notes.get(NOTE)
        if source is None:
            return None
        try:
            seen = np.zeros((space.n_genes, int(space.n_choices.max())), dtype=np.bool_)
            for gene, (choices, n) in enumerate(zip(source["seen"], space.n_choices, strict=True)):
                if any(not 0 <= c < n for c in choices):
                    raise ValueError("no such choice")
                seen[gene, choices] = True
            std_max = source["std_max"]
            return cls(seen, math.nan if std_max is None else float(std_max))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError("a training range must list the choices seen of every gene, but it does not.") from error

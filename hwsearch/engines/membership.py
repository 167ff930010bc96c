"""Which trials are on the front when labels are noisy: a probability for each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwsearch import pareto
from hwsearch.engines.beliefs import Beliefs

FloatArray = NDArray[np.float64]

N_SAMPLES = 400


def membership(beliefs: Beliefs, rng: np.random.Generator, *, n_samples: int = N_SAMPLES) -> FloatArray:
    """Returns the probability (n,) of every row of `beliefs.population` to keep the limits with no known row better.

    True losses are drawn from the surrogates' posterior given all labels and their standard errors, rows together, so
    that what labels of like architectures say counts too. Labels without a standard error are taken for true. Rows with
    a label missing have probability 0.

    Args:
        beliefs: with at most as many labelled rows as a surrogate is conditioned on: the others are taken for true.
        rng: of the draws.
        n_samples: draws; the standard error of a probability is at most 0.5 / sqrt(n_samples).
    """
    rows = np.flatnonzero(beliefs.known)
    count = np.zeros(len(rows))
    for draw in beliefs.draws(n_samples, rng)[:, rows]:
        losses = draw[:, : beliefs.m].copy()
        losses[~(draw[:, beliefs.m :] <= 0).all(axis=1)] = np.nan
        count += pareto.front(losses)
    out = np.zeros(len(beliefs.values))
    out[rows] = count / n_samples
    return out

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
    that what labels of like architectures say counts too. Labels without a standard error are taken for true. Losses
    of a column count in the warped unit, which changes no domination. Rows with a label missing have probability 0.

    Args:
        beliefs: with at most as many labelled rows as a surrogate is conditioned on.
        rng: of the draws.
        n_samples: draws; the standard error of a probability is at most 0.5 / sqrt(n_samples).
    """
    rows = np.flatnonzero(beliefs.known)
    values = beliefs.values[rows]
    draws = np.repeat(values[None], n_samples, axis=0)  # (s, k, m + c)
    thresholds = np.zeros(values.shape[1])
    for j, posterior in beliefs.posteriors.items():
        mean, covariance = posterior.truth()
        labelled = np.flatnonzero(np.isin(rows, beliefs.labelled[j]))
        if len(labelled) != posterior.n:
            raise ValueError(f"membership must have all {posterior.n} labelled rows complete, but got {len(labelled)}.")
        uncertain = np.flatnonzero(np.diagonal(covariance) > 1e-12)
        draws[:, labelled, j] = mean
        if len(uncertain):
            part = covariance[np.ix_(uncertain, uncertain)]
            spectrum, vectors = np.linalg.eigh(part)
            root = vectors * np.sqrt(np.maximum(spectrum, 0.0))
            noise = rng.standard_normal((n_samples, len(uncertain))) @ root.T
            draws[:, labelled[uncertain], j] = mean[uncertain] + noise
        thresholds[j] = posterior.warp.forward(np.zeros(1))[0] if j >= beliefs.m else 0.0
    for c, (j, offset) in beliefs.tied.items():
        draws[:, :, c] = draws[:, :, j]
        thresholds[c] = (
            beliefs.posteriors[j].warp.forward(np.array([-offset]))[0] if j in beliefs.posteriors else -offset
        )
    count = np.zeros(len(rows))
    for draw in draws:
        losses = draw[:, : beliefs.m].copy()
        losses[~(draw[:, beliefs.m :] <= thresholds[beliefs.m :]).all(axis=1)] = np.nan
        count += pareto.front(losses)
    out = np.zeros(len(beliefs.values))
    out[rows] = count / n_samples
    return out

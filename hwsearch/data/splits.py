"""Stratified splits: which rows are for training, for search-validation and for the hold-out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def stratified_split(labels: Rows, shares: Mapping[str, float], seed: int, *, rest: str = "train") -> dict[str, Rows]:
    """Returns disjoint row numbers, each ascending: a share of every class per name, what remains under `rest`.

    Every class gives floor(share * its rows + 1/2) rows to a part, so class proportions are kept within one row.

    Args:
        labels: (n,) class of each row.
        shares: part -> share in [0, 1); together below 1.
        seed: the same seed gives the same split.
        rest: name of the part that gets all other rows.

    Raises:
        ValueError: shares outside these bounds, or a part that gets no row.
    """
    if any(not 0.0 <= share < 1.0 for share in shares.values()) or sum(shares.values()) >= 1.0:
        raise ValueError(f"split shares must be in [0, 1) and sum to less than 1, but got {dict(shares)}.")
    rng = np.random.default_rng(seed)
    parts: dict[str, list[Rows]] = {name: [] for name in (*shares, rest)}
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        taken = 0
        for name, share in shares.items():
            count = min(int(share * len(rows) + 0.5), len(rows) - taken)
            parts[name].append(rows[taken : taken + count])
            taken += count
        parts[rest].append(rows[taken:])
    joined = {
        name: np.sort(np.concatenate(found)).astype(np.int64) if found else np.zeros(0, np.int64)
        for name, found in parts.items()
    }
    for name, rows in joined.items():
        if len(rows) == 0:
            raise ValueError(f"the {name} split must have at least one row, but {len(labels)} rows are too few for it.")
    return joined


def limited(labels: Rows, limit: int | None, seed: int) -> Rows:
    """Returns at most `limit` row numbers, ascending, classes in proportion (within one row); all without a limit."""
    n = len(labels)
    if limit is None or limit >= n:
        return np.arange(n, dtype=np.int64)
    rng = np.random.default_rng([seed, 1])
    # The k-th row of a class of size c sits at (k + jitter) / c: a prefix of that order has every class in proportion.
    place = np.empty(n)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.sort(np.argsort(place, kind="stable")[:limit]).astype(np.int64)

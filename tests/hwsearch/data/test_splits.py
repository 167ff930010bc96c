"""Stratified splits: disjoint, complete, proportional, decided by the seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsearch.data.splits import limited, stratified_split


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(10, 60), min_size=1, max_size=5),
    search=st.floats(0.1, 0.4),
    holdout=st.floats(0.1, 0.4),
    seed=st.integers(0, 99),
)
def test_splits_partition_the_rows_and_keep_class_shares(sizes, search, holdout, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    parts = stratified_split(labels, {"search": search, "holdout": holdout}, seed)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(labels)))
    for label, size in enumerate(sizes):
        assert abs((labels[parts["search"]] == label).sum() - search * size) <= 0.5 + 1e-9
        assert abs((labels[parts["holdout"]] == label).sum() - holdout * size) <= 0.5 + 1e-9
    assert all((np.diff(rows) > 0).all() for rows in parts.values())


def test_the_seed_decides_the_split():
    labels = np.repeat(np.arange(3), 20)
    one, same, other = (stratified_split(labels, {"search": 0.3}, seed) for seed in (0, 0, 1))
    assert np.array_equal(one["search"], same["search"])
    assert not np.array_equal(one["search"], other["search"])


@pytest.mark.parametrize("shares", [{"a": 0.5, "b": 0.5}, {"a": -0.1}, {"a": 1.0}])
def test_shares_must_leave_a_rest(shares):
    with pytest.raises(ValueError, match=r"split shares must be in \[0, 1\) and sum to less than 1, but got"):
        stratified_split(np.zeros(10, np.int64), shares, 0)


def test_every_part_must_get_a_row():
    with pytest.raises(ValueError, match="the search split must have at least one row, but 3 rows are too few for it"):
        stratified_split(np.zeros(3, np.int64), {"search": 0.1}, 0)


def test_a_limit_keeps_class_shares():
    labels = np.repeat([0, 1], [300, 100])
    rows = limited(labels, 40, seed=3)
    assert len(rows) == 40 and (np.diff(rows) > 0).all()
    assert abs((labels[rows] == 0).sum() - 30) <= 1
    assert np.array_equal(limited(labels, None, 0), np.arange(400))
    assert np.array_equal(limited(labels, 1000, 0), np.arange(400))

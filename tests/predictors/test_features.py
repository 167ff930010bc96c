"""Features: one-hot and ordinal columns of active genes."""

from __future__ import annotations

import numpy as np

from predictors.features import Features, one_hot, ordinal
from search_spaces.genes import Condition, Gene
from search_spaces.space import SearchSpace
from tests.contracts.predictor_contract import example_space


def small() -> SearchSpace:
    return SearchSpace(
        [
            Gene("depth", (1, 2)),
            Gene("kind", ("a", "b", "c"), aliases={"c": "b"}),
            Gene("kernel", (3, 5, 7), active_when=(Condition("depth", (2,)),)),
            Gene("fixed", (4,)),
        ]
    )


def test_one_hot_by_hand() -> None:
    block = one_hot(small())
    assert block.columns == ("depth=1", "depth=2", "kind=a", "kind=b", "kernel=3", "kernel=5", "kernel=7")
    rows = np.array([[0, 2, 2, 0], [1, 0, 2, 0]], dtype=np.uint8)
    assert block.matrix(rows).tolist() == [[1, 0, 0, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0, 1]]


def test_ordinal_by_hand() -> None:
    block = ordinal(small())
    assert block.columns == ("depth", "kind", "kernel", "fixed", "kernel active")
    rows = np.array([[0, 1, 0, 0], [1, 0, 1, 0]], dtype=np.uint8)
    assert block.matrix(rows).tolist() == [[0, 0.5, 0, 1, 0], [1, 0, 0.5, 1, 1]]


def test_distinct_networks_have_distinct_features() -> None:
    space = example_space()
    rows = space.enumerate()
    for block in (one_hot(space), ordinal(space)):
        assert len(np.unique(block.matrix(rows), axis=0)) == len(rows)


def test_blocks_side_by_side() -> None:
    space = small()
    features = Features(space, ("ordinal", "one_hot"))
    rows = space.enumerate()
    assert features.matrix(rows).shape == (len(rows), len(features.columns)) == (8, 12)
    np.testing.assert_array_equal(features.matrix(rows)[:, 5:], one_hot(space).matrix(rows))

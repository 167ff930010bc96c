from __future__ import annotations

import json
import math

import numpy as np
import pytest

from predictors.training_range import NOTE, TrainingRange
from search_spaces.genes import Condition, Gene
from search_spaces.space import SearchSpace

SPACE = SearchSpace([Gene("depth", (1, 2)), Gene("kernel", (3, 5, 7), (Condition("depth", (2,)),))])
TRAINING = np.array([[0, 0], [1, 1], [1, 2]], dtype=np.uint8)


def test_outside_is_a_value_never_seen_while_it_mattered() -> None:
    found = TrainingRange.of(SPACE, TRAINING)
    # Kernel 3 occurs in the rows only as what an inactive gene is set to.
    rows = np.array([[0, 0], [1, 0], [1, 1]], dtype=np.uint8)
    assert found.outside(SPACE, rows, stds=np.full(3, 1e9)).tolist() == [False, True, False]


def test_outside_is_a_deviation_above_all_of_cross_validation() -> None:
    found = TrainingRange.of(SPACE, TRAINING, stds=np.array([0.1, np.nan, 0.3]))
    assert found.std_max == 0.3
    assert found.outside(SPACE, TRAINING, stds=np.array([0.3, 0.31, 0.0])).tolist() == [False, True, False]


@pytest.mark.parametrize("stds", [None, np.array([0.1, 0.2, 0.3])])
def test_round_trip_through_json(stds: np.ndarray | None) -> None:
    found = TrainingRange.of(SPACE, TRAINING, stds=stds)
    again = TrainingRange.from_notes(SPACE, {NOTE: json.loads(json.dumps(found.to_dict()))})
    assert again is not None
    assert (again.seen == found.seen).all()
    assert again.std_max == found.std_max or (math.isnan(again.std_max) and math.isnan(found.std_max))
    assert TrainingRange.from_notes(SPACE, {}) is None


@pytest.mark.parametrize(
    "note", [1, {}, {"seen": [[0]], "std_max": 1}, {"seen": [[0], [3]], "std_max": 1}, {"seen": [[0], ["a"]]}]
)
def test_another_note_is_an_error(note: object) -> None:
    with pytest.raises(ValueError, match="a training range must list the choices seen of every gene, but it does not"):
        TrainingRange.from_notes(SPACE, {NOTE: note})

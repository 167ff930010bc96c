from __future__ import annotations

import math

import numpy as np
import pytest

from hwsearch.objectives import Objective, losses


def test_violation_is_signed_in_the_direction_of_worse() -> None:
    slow = Objective("latency_ms", device="pixel", limit=20.0)
    assert slow.violation(23.0) == 3.0
    assert slow.violation(18.0) == -2.0
    assert slow.violation(20.0) == 0.0
    accurate = Objective("accuracy", direction="maximize", limit=0.75)
    assert accurate.violation(0.5) == 0.25
    assert accurate.violation(1.0) == -0.25
    assert math.isnan(accurate.violation(math.nan))
    assert Objective("macs").violation(5.0) == 0.0


def test_names_and_losses() -> None:
    objectives = [Objective("accuracy", direction="maximize"), Objective("latency_ms", device="pixel")]
    assert [o.name for o in objectives] == ["accuracy", "latency_ms@pixel"]
    assert losses(objectives, np.array([[0.5, 3.0]])).tolist() == [[-0.5, 3.0]]
    assert objectives[0].loss(0.5) == -0.5


def test_bad_objectives() -> None:
    with pytest.raises(ValueError, match="direction must be 'minimize' or 'maximize', but got 'up'"):
        Objective("accuracy", direction="up")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit of accuracy must be finite, but got inf"):
        Objective("accuracy", limit=math.inf)

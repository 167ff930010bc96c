from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from hwsearch.errors import RunFolderError, UserError
from hwsearch.front import Member, _flag, choose, load_front, save_front, spread
from hwsearch.objectives import Objective
from hwsearch.runfolder import RunFolder

ACCURACY = Objective("accuracy", direction="maximize")
LATENCY = Objective("latency_ms", "cpu")


def member(index: int, accuracy: float | None, ms: float | None, **changes: Any) -> Member:
    validated = {name: v for name, v in (("accuracy", accuracy), ("latency_ms@cpu", ms)) if v is not None}
    given: dict[str, Any] = {"architecture": {"a": index}, "metrics": dict(validated), "stds": {}}
    return Member(**{"key": f"k{index}", "index": index, "validated": validated, **given, **changes})


def test_members_that_fall_behind_are_kept_and_flagged() -> None:
    members = [
        member(0, 0.9, 5.0),
        member(1, 0.8, 2.0),
        member(2, 0.79, 2.5),
        member(3, 0.9, 5.0),
        member(4, 0.5, None),
    ]
    flagged = _flag(members, (ACCURACY, LATENCY), ())
    assert [m.index for m in flagged] == [0, 1, 2, 3, 4]
    assert [m.behind for m in flagged] == [False, False, True, False, True]
    assert _flag([], (ACCURACY,), ()) == []


def test_limits_that_validation_passes_are_named() -> None:
    limits = (Objective("accuracy", direction="maximize", limit=0.85), Objective("latency_ms", "cpu", limit=4.0))
    flagged = _flag([member(0, 0.9, 5.0), member(1, 0.8, 4.0), member(2, 0.8, 9.0)], (ACCURACY, LATENCY), limits)
    assert [m.passed for m in flagged] == [("latency_ms@cpu",), ("accuracy",), ("accuracy", "latency_ms@cpu")]


def test_the_front_is_stored_and_read_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    members = [
        member(0, 0.9, 5.0, passed=("accuracy",), stds={"accuracy": math.nan}),
        member(1, None, None, error="ill"),
    ]
    limit = Objective("macs", limit=3.0)
    save_front(members, (ACCURACY, LATENCY), (limit,), folder)
    first, second = load_front(folder)
    assert first.passed == ("accuracy",)
    assert first.stds == {"accuracy": None}
    assert second == members[1]
    with folder.front_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["passed_limits"] == "accuracy"
    assert rows[1]["error"] == "ill"
    assert rows[1]["accuracy:validated"] == ""
    assert "macs:validated" in rows[0]


def test_a_front_of_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    save_front([], (ACCURACY,), (), folder)
    assert load_front(folder) == []
    assert folder.front_csv.read_text().startswith("key,trial,behind,passed_limits,error,accuracy:search")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"members": [{"key": 1}]}', '{"members": 5}'])
def test_a_damaged_front_is_none(tmp_path: Path, content: str) -> None:
    folder = RunFolder(tmp_path)
    folder.front_json.write_text(content)
    with pytest.raises(RunFolderError, match=r"must hold a validated front \(front\.json\)"):
        load_front(folder)


def test_spread_takes_the_ends() -> None:
    members = [member(i, a, 1.0) for i, a in enumerate((0.5, 0.9, 0.7, 0.6, 0.8))]

    def taken(count: int) -> list[float]:
        return [m.validated["accuracy"] for m in spread(members, count, ACCURACY)]

    assert taken(0) == []
    assert taken(1) == [0.9]
    assert taken(2) == [0.9, 0.5]
    assert taken(3) == [0.9, 0.7, 0.5]
    assert taken(4) == [0.9, 0.8, 0.6, 0.5]
    assert taken(5) == taken(99) == [0.5, 0.9, 0.7, 0.6, 0.8]


def test_choose_takes_the_best_that_keeps_the_limits() -> None:
    members = [member(0, 0.9, 5.0), member(1, 0.8, 2.0), member(2, None, 1.0), member(3, 0.99, 9.0, error="ill")]
    assert choose(members, LATENCY, []).index == 2
    assert choose(members, ACCURACY, []).index == 0  # not the one without it, and not the one that failed
    at_least = Objective("accuracy", direction="maximize", limit=0.85)
    assert choose(members, LATENCY, [at_least]).index == 0
    with pytest.raises(UserError, match=r"must keep latency_ms@cpu <= 0\.5, but none of 3 does"):
        choose(members, LATENCY, [Objective("latency_ms", "cpu", limit=0.5)])
    with pytest.raises(UserError, match=r"the metric must be one of \['accuracy', 'latency_ms@cpu'\], but got 'macs'"):
        choose(members, Objective("macs"), [])

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwsearch.commands.query import front, run_plan
from hwsearch.commands.report import open_study
from hwsearch.commands.run import _front_probabilities, run
from hwsearch.engines.pareto_search import ParetoSearch
from hwsearch.engines.random_search import RandomSearch
from hwsearch.errors import RunFolderError, UserError
from hwsearch.front import Member, _flag, choose, contending, load_front, robust_of, save_front, spread
from hwsearch.objectives import Objective
from hwsearch.results import Evaluation
from hwsearch.runfolder import RunFolder
from hwsearch.study import Study, open_storage
from tests.contracts.engine_contract import small_space
from tests.hwsearch.runs import Silent, costs_only, write

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


def test_what_cannot_be_told_apart_ties() -> None:
    """Intervals of two standard errors that overlap in every objective; without an error a value is exact."""
    near = {"accuracy": 0.005, "latency_ms@cpu": 0.1}
    members = [
        member(0, 0.900, 5.0, validated_stds=near),
        member(1, 0.885, 5.3, validated_stds=near),  # behind 0, but by less than what is known
        member(2, 0.850, 5.3, validated_stds=near),  # ties in latency alone with 0
        member(3, 0.885, 5.2),
        member(4, 0.885, 5.6),
        member(5, None, 5.1, validated_stds=near),
    ]
    flagged = _flag(members, (ACCURACY, LATENCY), ())
    assert [m.ties for m in flagged] == [("k1",), ("k0", "k3"), (), ("k1",), (), ()]
    assert [m.behind for m in flagged] == [False, True, True, True, True, True]


def test_limits_that_validation_passes_are_named() -> None:
    limits = (Objective("accuracy", direction="maximize", limit=0.85), Objective("latency_ms", "cpu", limit=4.0))
    flagged = _flag([member(0, 0.9, 5.0), member(1, 0.8, 4.0), member(2, 0.8, 9.0)], (ACCURACY, LATENCY), limits)
    assert [m.passed for m in flagged] == [("latency_ms@cpu",), ("accuracy",), ("accuracy", "latency_ms@cpu")]


def test_the_front_is_stored_and_read_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    members = [
        member(
            0, 0.9, 5.0, passed=("accuracy",), ties=("k1", "k7"), front_probability=0.25, stds={"accuracy": math.nan}
        ),
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
    assert (first.ties, first.front_probability) == (("k1", "k7"), 0.25)
    assert (rows[0]["ties"], rows[0]["front_probability"]) == ("k1 k7", "0.25")
    assert (rows[1]["ties"], rows[1]["front_probability"]) == ("", "")
    assert rows[1]["error"] == "ill"
    assert rows[1]["accuracy:validated"] == ""
    assert "macs:validated" in rows[0]


def test_a_front_of_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    save_front([], (ACCURACY,), (), folder)
    assert load_front(folder) == []
    assert folder.front_csv.read_text().startswith("key,trial,behind,ties,front_probability,passed_limits,error,")


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


PHONE = Objective("latency_ms", "phone")


def on_both(index: int, accuracy: float, cpu: float, phone: float | None, **changes: Any) -> Member:
    made = member(index, accuracy, cpu, **changes)
    return replace(made, validated={**made.validated, **({} if phone is None else {PHONE.name: phone})})


def test_the_robust_front_does_on_every_device() -> None:
    limits = (Objective("latency_ms", "cpu", limit=4.0), Objective("latency_ms", "phone", limit=9.0))
    members = [
        on_both(0, 0.9, 3.0, 8.0),
        on_both(1, 0.95, 3.0, 12.0),  # too slow on the phone
        on_both(2, 0.95, 5.0, 8.0),  # too slow on the cpu
        on_both(3, 0.99, 1.0, None),  # the phone never measured it
        on_both(4, 0.8, 3.5, 8.5),  # 0 beats it
        on_both(5, 0.8, 2.0, 8.5),
        on_both(6, 0.99, 1.0, 1.0, error="ill"),
    ]
    assert robust_of(members, (ACCURACY, LATENCY, PHONE), limits) == ["k0", "k5"]
    # Without limits, what was measured everywhere and is beaten by nobody: not only the best of one device.
    assert robust_of(members, (ACCURACY, LATENCY, PHONE), ()) == ["k0", "k1", "k2", "k5"]
    assert robust_of([], (ACCURACY,), limits) == []


def test_a_run_with_a_larger_budget_and_one_more_device_has_a_robust_front(tmp_path: Path) -> None:
    devices = {"a": {"runtime": "simulated"}}
    raw = costs_only(
        objectives=["macs", "latency_ms@a"], devices=devices, limits=[{"metric": "latency_ms@a", "max": 1e9}]
    )
    raw["search"] = {"engine": "random", "trials": 10}
    first = run(write(tmp_path, raw), run_dir=tmp_path / "run", observer=Silent())
    assert first.front["robust"] == first.front["fronts"]["a"]
    raw["devices"] = {**devices, "b": {"runtime": "simulated"}}
    raw["objectives"] = ["macs", "latency_ms@a", "latency_ms@b"]
    raw["search"]["trials"] = 16
    outcome = run(write(tmp_path, raw), run_dir=tmp_path / "run", observer=Silent())
    assert outcome.n_trials == 16
    assert all({"latency_ms@a", "latency_ms@b"} <= set(m.validated) for m in outcome.members)
    keys = outcome.front["robust"]
    assert keys
    assert set(keys) == {m.key for m in outcome.members if not m.behind}
    shown = front(tmp_path / "run", robust=True)
    assert {m["key"] for m in shown["members"]} == set(keys)
    assert len(shown["objectives"]) == 3
    with pytest.raises(UserError, match=r"--robust must be given without --device"):
        front(tmp_path / "run", device="a", robust=True)


def test_probabilities_to_be_on_the_true_front(tmp_path: Path) -> None:
    """Where the spread of labels is known the default engine says it, the same when it is asked again."""
    raw = costs_only(
        objectives=["macs", "latency_ms@sim"],
        limits=[],
        devices={"sim": {"runtime": "simulated", "options": {"noise": 0.3}}},
        search={"engine": "pareto", "trials": 12, "options": {"initial": 4, "inner": 100}},
        export={"nets": 0},
    )
    outcome = run(write(tmp_path, raw), run_dir=tmp_path / "run", observer=Silent())
    found = [m.front_probability for m in outcome.members]
    assert all(p is not None and 0.0 <= p <= 1.0 for p in found)
    assert min(p for p in found if p is not None) < 1.0
    outcome.folder.front_json.unlink()
    run(tmp_path / "config.yaml", run_dir=tmp_path / "run", observer=Silent())
    assert [m.front_probability for m in load_front(outcome.folder)] == found


def test_contenders_are_validated_with_the_front_of_the_labels(tmp_path: Path) -> None:
    """What noise alone may have kept off the front is measured again too; asked again, nothing is done twice."""
    raw = costs_only(
        objectives=["macs", "latency_ms@sim"],
        limits=[],
        devices={"sim": {"runtime": "simulated", "options": {"noise": 0.3}}},
        search={"engine": "pareto", "trials": 14, "options": {"initial": 4, "inner": 100}, "contenders": 0.05},
        export={"nets": 0},
    )
    config = write(tmp_path, raw)
    first = run(config, run_dir=tmp_path / "run", observer=Silent())
    plan, folder = run_plan(tmp_path / "run")
    labels = {trial.index for trial in open_study(plan, folder).front()}
    found = {m.index: m.front_probability for m in first.members}
    assert labels < set(found)
    assert all((found[index] or 0.0) >= 0.05 for index in set(found) - labels)
    assert all(m.validated and m.error is None for m in first.members)
    again = run(config, run_dir=tmp_path / "run", observer=Silent())
    assert again.members == first.members
    alone = run(config, overrides=["search.contenders=null"], run_dir=tmp_path / "run", observer=Silent())
    assert {m.index for m in alone.members} == labels


def test_who_contends(tmp_path: Path) -> None:
    space = small_space()
    study = Study("run", space, objectives=(ACCURACY, LATENCY), storage=open_storage(None, tmp_path / "study.log"))
    for row, accuracy in zip(space.enumerate()[:4], (0.9, 0.5, 0.89, 0.95), strict=True):
        (index,) = study.start(row[None])
        study.record(index, Evaluation({"accuracy": accuracy, "latency_ms@cpu": 1.0 + index}, 1.0))
    said = {0: 1.0, 1: 0.1, 2: 0.3, 3: 0.15}

    def who(at_least: float | None, said: dict[int, float]) -> list[int]:
        return [trial.index for trial in contending(study, said, at_least)]

    assert who(None, said) == [0, 3]
    assert who(0.2, said) == [0, 2, 3]  # 3 is on the front of the labels
    assert who(0.1, said) == [0, 1, 2, 3]
    assert who(0.1, {}) == [0, 3]


def test_who_cannot_say_a_probability(tmp_path: Path) -> None:
    space = small_space()
    study = Study("run", space, objectives=(ACCURACY, LATENCY), storage=open_storage(None, tmp_path / "study.log"))
    engine = ParetoSearch(space, n_objectives=2)
    for n, (row, std) in enumerate(zip(space.enumerate()[:6], (0.0, 0.0, 0.0, 0.0, 0.0, 0.1), strict=True)):
        (index,) = study.start(row[None])
        metrics = {"accuracy": 0.5 + 0.1 * n, "latency_ms@cpu": 1.0 + n}
        study.record(index, Evaluation(metrics, 1.0, stds={"accuracy": std} if std else {}))
        said = _front_probabilities(engine, study)
        assert (said is None) == (std == 0.0)
    assert said is not None and list(said) == list(range(6))
    assert _front_probabilities(RandomSearch(space, n_objectives=2), study) is None

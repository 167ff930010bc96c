from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from served import SPACE

from hwsearch.service.catalog import Catalog, RequestError
from hwsearch.service.prediction import answers
from hwsearch.service.ranking import Query, candidates, limited, query, wanted


def ask(catalog: Catalog, prefer: str, *limits, **rest):
    return query(catalog, Query(wanted(catalog, prefer), tuple(limits), **rest))


def test_predicted_best_is_the_best_of_the_whole_space(catalog: Catalog) -> None:
    limit = limited(catalog, "latency_ms", device="cpu", at_most=3.0)
    found = ask(catalog, "accuracy", *limit, count=3)
    rows = SPACE.enumerate()
    accuracy, latency = (
        answers(catalog, rows, [catalog.entries[n]], level=0.9)[0].mean for n in ("accuracy", "latency_ms@cpu")
    )
    best = np.sort(accuracy[latency <= 3.0])[::-1][:3]
    assert [f["values"]["accuracy"]["value"] for f in found] == best.tolist()
    assert {f["label"] for f in found} == {"predicted"}
    assert all(f["values"]["latency_ms@cpu"]["value"] <= 3.0 for f in found)


def test_cautious_keeps_limits_with_the_worse_end(catalog: Catalog) -> None:
    limit = limited(catalog, "latency_ms@cpu", at_most=3.0)
    found = ask(catalog, "accuracy", *limit, cautious=True, level=0.95)
    assert found
    assert all(f["values"]["latency_ms@cpu"]["upper"] <= 3.0 for f in found)
    lows = [f["values"]["accuracy"]["lower"] for f in found]
    assert lows == sorted(lows, reverse=True)


def test_measured_first_and_labelled(run_catalog: Catalog) -> None:
    limit = limited(run_catalog, "accuracy", at_least=0.85)
    found = ask(run_catalog, "latency_ms@cpu", *limit, count=3)
    labels = [f["label"] for f in found]
    assert labels == ["measured"] * 3 + ["predicted"] * 3
    trials = run_catalog.trials
    accuracy, latency = (trials.values[:, trials.names.index(n)] for n in ("accuracy", "latency_ms@cpu"))
    assert [f["values"]["latency_ms@cpu"]["value"] for f in found[:3]] == np.sort(latency[accuracy >= 0.85])[
        :3
    ].tolist()
    assert all(f["values"]["accuracy"]["kind"] == "measured" for f in found[:3])
    assert all(f["trial"] is not None for f in found[:3])
    assert all(f["values"]["accuracy"]["kind"] == "predicted" and f["trial"] is None for f in found[3:])
    # What was measured is never offered as a guess.
    measured = {run_catalog.space.architecture(row).key for row in trials.rows}
    assert not measured & {f["key"] for f in found[3:]}


def test_an_exact_cost_counts_as_measured(run_catalog: Catalog) -> None:
    limit = limited(run_catalog, "macs", at_most=1e9)
    found = ask(run_catalog, "accuracy", *limit, sources=("trials",), count=2)
    assert [f["label"] for f in found] == ["measured"] * 2
    assert found[0]["values"]["macs"]["kind"] == "exact"


def test_impossible_limits_find_nothing(run_catalog: Catalog) -> None:
    assert ask(run_catalog, "accuracy", *limited(run_catalog, "latency_ms", at_most=-1.0)) == []


def test_both_bounds_hold(catalog: Catalog) -> None:
    limits = limited(catalog, "latency_ms@cpu", at_least=2.0, at_most=2.5)
    assert [(o.direction, o.limit) for o in limits] == [("maximize", 2.0), ("minimize", 2.5)]
    values = [f["values"]["latency_ms@cpu"]["value"] for f in ask(catalog, "accuracy", *limits)]
    assert values
    assert all(2.0 <= v <= 2.5 for v in values)


def test_a_large_space_is_searched_within_its_budget(catalog: Catalog) -> None:
    asked = Query(wanted(catalog, "accuracy"), candidates=100)  # of 156
    entries = [catalog.entries["accuracy"]]
    pool = candidates(catalog, asked, ["accuracy"], entries)
    assert len(pool) <= 100
    assert len({row.tobytes() for row in pool}) == len(pool)
    np.testing.assert_array_equal(pool, candidates(catalog, asked, ["accuracy"], entries))
    other = candidates(catalog, replace(asked, seed=1), ["accuracy"], entries)
    assert pool.tobytes() != other.tobytes()
    value = ask(catalog, "accuracy", candidates=100, count=1)[0]["values"]["accuracy"]["value"]
    everything = answers(catalog, SPACE.enumerate(), entries, level=0.9)[0].mean
    assert value >= np.sort(everything)[-3]


def test_direction_can_be_told(catalog: Catalog) -> None:
    slowest = query(catalog, Query(wanted(catalog, "latency_ms@cpu", direction="maximize"), count=1))
    fastest = query(catalog, Query(wanted(catalog, "latency_ms@cpu"), count=1))
    assert slowest[0]["values"]["latency_ms@cpu"]["value"] > fastest[0]["values"]["latency_ms@cpu"]["value"]


def test_nothing_can_answer(catalog: Catalog) -> None:
    with pytest.raises(RequestError, match="must be able to answer, but no trials are stored here"):
        ask(catalog, "accuracy", sources=("trials",))
    with pytest.raises(RequestError, match="a limit must have min or max, but that of 'accuracy' has neither"):
        limited(catalog, "accuracy")


def test_measured_only_metrics_have_no_predictions(run_catalog: Catalog) -> None:
    entries = {n: e for n, e in run_catalog.entries.items() if n != "latency_ms@cpu"}
    without = replace(run_catalog, entries=entries)
    assert {f["label"] for f in ask(without, "latency_ms@cpu")} == {"measured"}
    with pytest.raises(RequestError, match="must be able to answer, but there is no predictor of latency_ms@cpu"):
        ask(without, "latency_ms@cpu", sources=("predictors",))

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from served import LEAST, SPACE

from hwsearch.service.catalog import Catalog, RequestError, TooLargeError
from hwsearch.service.prediction import answers, numbers, parse, predict


def test_mappings_and_rows_are_the_same_architectures() -> None:
    rows = SPACE.sample(50, np.random.default_rng(0))
    mappings = [a.to_dict() for a in SPACE.architectures(rows)]
    np.testing.assert_array_equal(parse(SPACE, mappings, limit=50), rows)
    np.testing.assert_array_equal(parse(SPACE, rows.tolist(), limit=50), rows)
    np.testing.assert_array_equal(parse(SPACE, mappings[0], limit=1), rows[:1])


def test_inactive_genes_do_not_matter() -> None:
    a = parse(SPACE, [{**LEAST, "third.kernel": 7}, LEAST], limit=2)
    np.testing.assert_array_equal(a[0], a[1])
    b = parse(SPACE, [[0, 0, 2, 2, 0, 0]], limit=2)
    np.testing.assert_array_equal(a[:1], b)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ([], "architectures must be a mapping of genes, or a list of at least one"),
        ("largest", "architectures must be a mapping of genes, or a list of at least one"),
        (None, "architectures must be a mapping of genes, or a list of at least one"),
        ([LEAST, [0, 0, 0, 0, 0, 0]], r"all mappings or all rows of choice indices, but \[1\] is a list"),
        ([[0, 0, 0, 0, 0, 0], LEAST], r"all mappings or all rows of choice indices, but \[1\] is a mapping"),
        ([3], r"all mappings or all rows of choice indices, but \[0\] is neither"),
        ([[0, 0]], r"architectures\[0\] must have 6 choice indices, but got 2"),
        ([[0, 0, 0, 0, 0, True]], r"architectures\[0\] must hold integers only"),
        ([[0, 0, 0, 0, 0, 0.0]], r"architectures\[0\] must hold integers only"),
        ([[0, 0, 0, 0, 0, 10**30]], "choice indices must be at most 254, but one is huge"),
        ([[0, 0, 0, 0, 0, 256]], r"the index of gene 'se' must be from 0 to 1, but got 256"),
        ([[0, 0, 0, 0, 0, -1]], r"the index of gene 'se' must be from 0 to 1, but got -1"),
        ([LEAST, {**LEAST, "depht": 1}], r"architectures\[1\]: genes must be of this space, but got 'depht' \(near"),
        ({**LEAST, "x" * 9999: 1}, r"architectures\[0\]: genes must be of this space, but got 'x{100}'"),
        ({**LEAST, "depth": 9}, r"gene 'depth' must be one of \[1, 2, 3\], but got 9"),
        ({**LEAST, "depth": True}, r"gene 'depth' must be one of \[1, 2, 3\], but got True"),
        ({**LEAST, "se": 0}, r"gene 'se' must be one of \[False, True\], but got 0"),
        ({**LEAST, "depth": [1]}, r"gene 'depth' must be one of \[1, 2, 3\], but got \[1\]"),
        ({**LEAST, "depth": "y" * 500}, r"but got 'y{36}\.\.\."),
        ({**LEAST, "depth": float("nan")}, r"gene 'depth' must be one of \[1, 2, 3\], but got nan"),
        ({**LEAST, "depth": 2}, r"must give every active gene, but 'second.kernel' is missing"),
    ],
)
def test_bad_architectures_are_one_line(source: Any, line: str) -> None:
    with pytest.raises(RequestError, match=line):
        parse(SPACE, source, limit=10)


def test_numbers_are_equal_to_choices_as_in_the_space() -> None:
    np.testing.assert_array_equal(parse(SPACE, {**LEAST, "depth": 1.0}, limit=1), parse(SPACE, LEAST, limit=1))


def test_too_many() -> None:
    with pytest.raises(TooLargeError, match="at most 2 architectures, but got 3"):
        parse(SPACE, [LEAST] * 3, limit=2)


def test_answers_are_the_predictors_own(catalog: Catalog) -> None:
    rows = SPACE.sample(20, np.random.default_rng(1))
    entries = catalog.select(None, ["cpu"])
    (answer,) = answers(catalog, rows, entries, level=0.9)
    direct = entries[0].predictor.predict(rows)
    np.testing.assert_array_equal(answer.mean, direct.mean)
    np.testing.assert_array_equal((answer.lower, answer.upper), entries[0].predictor.interval(rows, 0.9))
    # The files were made without kernel 7 in the first layer.
    np.testing.assert_array_equal(answer.outside[rows[:, 1] == 2], True)


def test_intervals_grow_with_their_level(catalog: Catalog) -> None:
    narrow, wide = (
        predict(catalog, LEAST, metrics=["accuracy"], level=level)["predictions"][0] for level in (0.5, 0.99)
    )
    assert wide["lower"][0] < narrow["lower"][0] < narrow["mean"][0] < narrow["upper"][0] < wide["upper"][0]
    assert narrow["interval"] == "held-out errors"


def test_exact_costs_are_points(run_catalog: Catalog) -> None:
    rows = run_catalog.trials.rows[:3]
    got = predict(run_catalog, rows.tolist(), metrics=["macs", "stored_bytes"])["predictions"]
    costs = run_catalog.supernet.costs(rows)
    assert [c["kind"] for c in got] == ["exact", "exact"]
    assert got[0]["mean"] == got[0]["lower"] == got[0]["upper"] == costs.macs.tolist()
    assert got[1]["mean"] == costs.stored_bytes.tolist()
    assert got[0]["outside"] == [False] * 3


def test_what_is_not_finite_is_null() -> None:
    assert numbers(np.array([1.0, np.nan, -np.inf])) == [1.0, None, None]

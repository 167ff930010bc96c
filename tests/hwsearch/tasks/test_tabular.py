"""Result tables as tasks."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from hwsearch.errors import UserError
from hwsearch.tasks.tabular import Tabular, tabular_task

TABLE = """depth,kernel,op,accuracy,macs
1,3,conv,0.5,10
2,3,conv,0.6,20
2,5,conv,0.7,30
1,5,conv,0.5,10
1,3,sep,0.4,5
2,3,sep,0.5,12
2,5,sep,0.7,18
"""
GENES = {"depth": {}, "kernel": {"when": {"depth": [2]}}, "op": {}}


def written(folder: Path, text: str = TABLE) -> Path:
    path = folder / "table.csv"
    path.write_text(text)
    return path


def settings(folder: Path, text: str = TABLE, **changes: object) -> Tabular:
    content = {
        "file": written(folder, text),
        "genes": GENES,
        "metrics": {"accuracy": "maximize", "macs": "minimize"},
        "exact": ["macs"],
        **changes,
    }
    return Tabular.model_validate(content)


def test_a_table_is_a_space_with_losses(tmp_path: Path) -> None:
    task = tabular_task("t", settings(tmp_path))
    assert task.space.size() == 6
    assert [g.choices for g in task.space.genes] == [(1, 2), (3, 5), ("conv", "sep")]
    rows = task.space.enumerate()
    losses = task.losses(rows)
    # Rows whose genes are equal once the hidden kernel is left out are averaged.
    assert (losses[0] == [-0.5, 10.0]).all()
    assert sorted(map(tuple, task.front)) == [(-0.7, 18.0), (-0.5, 10.0)] or (-0.4, 5.0) in map(tuple, task.front)
    assert task.exact == (False, True)
    known = task.known()
    assert known is not None
    assert np.isnan(known(rows)[:, 0]).all()
    assert (known(rows)[:, 1] == losses[:, 1]).all()
    assert (task.references["worst"] == [-0.4, 30.0]).all()


def test_equal_genes_are_averaged(tmp_path: Path) -> None:
    task = tabular_task("t", settings(tmp_path, TABLE + "1,5,conv,0.8,10\n"))
    row = task.space.enumerate()[:1]
    assert task.losses(row)[0, 0] == pytest.approx(-0.6)


def test_a_column_has_one_type(tmp_path: Path) -> None:
    few = {"genes": ["a", "b"], "metrics": {"y": "minimize"}, "exact": []}
    table = settings(tmp_path, "a,b,y\n1,3.5,1\nx,2,2\n", **few).read()
    assert [g.choices for g in table.space.genes] == [("1", "x"), (2.0, 3.5)]
    assert table.population.tolist() == [[0, 1], [1, 0]]


def test_shares_of_the_best_front(tmp_path: Path) -> None:
    task = tabular_task("t", settings(tmp_path), {"R": {"accuracy": 0.3, "macs": 40.0}})
    rows = task.space.enumerate()
    shares = task.shares(task.losses(rows), "R")
    assert shares[-1] == pytest.approx(1.0)
    assert (np.diff(shares) >= 0).all()
    # One point alone: (0.5 - 0.3) * (40 - 10) of the union of (-.7, 18), (-.5, 10), (-.4, 5).
    whole = 0.4 * 22 + 0.2 * 8 + 0.1 * 5
    assert shares[0] == pytest.approx(0.2 * 30 / whole)
    holes = np.array([[np.nan, np.nan], task.losses(rows)[0]])
    assert task.shares(holes, "R").tolist() == pytest.approx([0.0, shares[0]])


def test_architectures_that_are_not_in_the_table_fail_or_are_predicted(tmp_path: Path) -> None:
    text = "".join(line + "\n" for line in TABLE.splitlines() if line != "2,5,sep,0.7,18")
    task = tabular_task("t", settings(tmp_path, text))
    missing = np.array([[1, 1, 1]], dtype=np.uint8)
    assert np.isnan(task.losses(missing)).all()
    filled = tabular_task("t", settings(tmp_path, text, fill="predictor"))
    assert np.isfinite(filled.losses(missing)).all()
    assert len(filled.front)


def test_compressed(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(TABLE.encode()))
    assert len(settings(tmp_path, file=path).read().population) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("depth,kernel,op,accuracy\n1,3,conv,0.5\n", "must have the columns .* but has no 'macs'"),
        (TABLE.splitlines()[0] + "\n", "must have at least one row, but has none"),
        (TABLE + "1,3,conv,,10\n", "must hold a finite number in every row of 'accuracy', but holds ''"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(tmp_path, text).read()


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ({**GENES, "kernel": {"when": {"size": [2]}}}, "genes.kernel.when must name genes, but got 'size'"),
        (
            {**GENES, "kernel": {"when": {"depth": [9]}}},
            "genes.kernel.when.depth must hold values of the table, but",
        ),
    ],
)
def test_bad_conditions(tmp_path: Path, genes: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(tmp_path, genes=genes).read()


def test_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"exact must name metrics \(\['accuracy', 'macs'\]\), but got 'ms'"):
        settings(tmp_path, exact=["ms"])
    with pytest.raises(ValidationError, match="a column must be a gene or a metric, but 'macs' is both"):
        settings(tmp_path, genes=["macs", "op"])
    with pytest.raises(UserError, match=r"tabular.file must be a CSV file that can be read, but got nowhere.csv"):
        settings(tmp_path, file="nowhere.csv").read()
    with pytest.raises(UserError, match=r"references.R must give every metric .* but got \['macs'\]"):
        tabular_task("t", settings(tmp_path), {"R": {"macs": 3.0}})
    with pytest.raises(ValueError, match="reference 'R' must be worse than some point of the front"):
        tabular_task("t", settings(tmp_path), {"R": {"macs": 3.0, "accuracy": 0.1}})
    sparse = "a,b,c,d,y\n1,1,1,1,1\n2,2,2,2,2\n"
    few = {"genes": ["a", "b", "c", "d"], "metrics": {"y": "minimize"}, "exact": []}
    with pytest.raises(UserError, match="must hold at least 20% of the 16 architectures of its genes, but holds 2"):
        tabular_task("t", settings(tmp_path, sparse, **few))

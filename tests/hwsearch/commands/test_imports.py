"""`hwsearch import dynas`: into a run, into a table, and what it refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from hwsearch.commands.imports import import_dynas
from hwsearch.errors import UserError
from hwsearch.study import Study, open_storage
from search_spaces.ofa_networks import OfaMobilenetV3

FULL = {"wid": None, "ks": [7] * 20, "e": [6] * 20, "d": [4] * 5, "r": [224]}
SMALL = {"wid": None, "ks": [3] * 20, "e": [3] * 20, "d": [2] * 5, "r": [224]}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Sub-network", "Date", "Model Parameters", "Latency (ms)", "MACs", "Top-1 Acc (%)"])
        writer.writerow([repr(FULL), "2022-11-01", 7664760, 0, 566300000, 76.5])
        writer.writerow([repr(SMALL), "2022-11-02", 3410792, 20.5, 0, 71.0])
        writer.writerow([repr(SMALL), "2022-11-03", 3410792, 0, 0, 71.2])
    return path


def config(tmp_path: Path, **changes: object) -> Path:
    raw = {
        "name": "imported",
        "supernet": {"family": "ofa_mobilenet_v3"},
        "data": {"name": "synthetic", "shape": [3, 224, 224], "n_classes": 4, "n": 40},
        "training": {"epochs": 1, "batch_size": 8},
        "objectives": ["accuracy", "macs"],
        "devices": {"cpu": {"runtime": "onnxruntime"}},
        **changes,
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def read_study(folder: Path, *, space: OfaMobilenetV3) -> Study:
    from hwsearch.objectives import Objective

    objectives = [Objective("accuracy", direction="maximize", unit="share"), Objective("macs", unit="MACs")]
    return Study("imported", space.space, objectives=objectives, storage=open_storage(None, folder / "study.log"))


def test_rows_become_finished_trials_once(results: Path, tmp_path: Path) -> None:
    path, folder = config(tmp_path), tmp_path / "run"
    answer = import_dynas(results, str(path), run_dir=folder)
    assert (answer["rows"], answer["architectures"], answer["imported"]) == (3, 2, 2)
    study = read_study(folder, space=OfaMobilenetV3(n_classes=4))
    assert study.history().finished.tolist() == [True, True]
    largest, smallest = study.trials
    assert largest.metrics["accuracy"] == pytest.approx(0.765)
    assert smallest.metrics["accuracy"] == pytest.approx(0.711)  # the mean of its two rows
    # costs are exact, not the file's
    assert largest.metrics["macs"] != largest.attributes["dynas_macs"] == 566_300_000
    assert largest.metrics["parameters"] == 7_664_760 - 996 * 1281
    again = import_dynas(results, str(path), run_dir=folder)
    assert (again["known_before"], again["imported"]) == (2, 0)


def test_rows_become_a_table_with_gaps_where_nothing_was_measured(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    assert import_dynas(results, "ofa_mobilenet_v3", out=out)["rows"] == 3
    rows = list(csv.DictReader(out.open()))
    assert [row["latency_ms"] for row in rows] == ["", "20.5", ""]
    assert rows[0]["stage1.block1.kernel"] == "7" and float(rows[1]["accuracy"]) == pytest.approx(0.71)


def test_what_cannot_be_imported_is_refused_and_nothing_is_written(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=r"--space must be a configuration \(.yaml\)"):
        import_dynas(results, "ofa_mobilenet_v3")
    with pytest.raises(UserError, match="--device must be a device of"):
        import_dynas(results, str(config(tmp_path)), device="phone", run_dir=folder)
    latency = config(tmp_path, objectives=["accuracy", "latency_ms@cpu"])
    with pytest.raises(
        UserError, match="must hold every objective that is not an exact cost, but has no latency_ms@cpu"
    ):
        import_dynas(results, str(latency), run_dir=folder)
    sparse = config(tmp_path, sparsity={"choices": ["2:4", "dense"]})
    with pytest.raises(UserError, match=r"sparsity\.choices must start with 'dense'"):
        import_dynas(results, str(sparse), run_dir=folder)
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"foreign\.csv"):
        import_dynas(foreign, str(config(tmp_path)), run_dir=folder)
    assert not folder.exists()


def test_latencies_of_a_device_complete_only_the_rows_that_have_them(results: Path, tmp_path: Path) -> None:
    path = config(tmp_path, objectives=["accuracy", "latency_ms@cpu"])
    answer = import_dynas(results, str(path), device="cpu", run_dir=tmp_path / "run")
    assert (answer["imported"], answer["incomplete"]) == (1, 1)

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import served

from hwsearch.errors import UserError
from hwsearch.results import Evaluation
from hwsearch.runfolder import RunFolder
from hwsearch.service.catalog import Catalog, RequestError
from hwsearch.service.loading import load
from hwsearch.study import Study, open_storage
from predictors.files import PredictorFileError
from search_spaces.genes import Gene
from search_spaces.populations import not_in
from search_spaces.space import SearchSpace


def test_names_devices_and_directions(catalog: Catalog) -> None:
    assert catalog.names == ("latency_ms@cpu", "latency_ms@phone", "accuracy")
    assert catalog.devices == ("cpu", "phone")
    assert catalog.direction("accuracy") == "maximize"
    assert catalog.direction("latency_ms@cpu") == "minimize"


def test_a_run_gives_predictors_costs_and_trials(run_catalog: Catalog) -> None:
    assert list(run_catalog.entries)[:2] == ["accuracy", "latency_ms@cpu"]
    kinds = {name: (e.kind, e.default) for name, e in run_catalog.entries.items()}
    assert kinds["stored_bytes"] == ("exact", True)  # an objective of the run
    assert kinds["macs"] == ("exact", False)
    assert len(run_catalog.trials) == 11  # one of twelve failed
    assert set(run_catalog.trials.names) == {"accuracy", "stored_bytes", "latency_ms@cpu"}
    assert run_catalog.trials.on_front.any()


def test_reading_a_run_writes_nothing(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "front.json").unlink(missing_ok=True)
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*")}
    load([copy], plan_of=served.plan_of)
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*")} == before


def test_a_run_without_trials_is_empty(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "study.log").unlink()
    assert len(load([copy], plan_of=served.plan_of).trials) == 0
    assert not (copy / "study.log").exists()
    (copy / "study.log").touch()
    assert len(load([copy], plan_of=served.plan_of).trials) == 0


def test_select_and_resolve(catalog: Catalog) -> None:
    assert [e.name for e in catalog.select(None, None)] == list(catalog.entries)
    assert [e.name for e in catalog.select(["latency_ms"], ["phone"])] == ["latency_ms@phone"]
    assert [e.name for e in catalog.select(["latency_ms"], None)] == ["latency_ms@cpu", "latency_ms@phone"]
    assert catalog.resolve("accuracy") == "accuracy"
    assert catalog.resolve("latency_ms", "cpu") == catalog.resolve("latency_ms@cpu") == "latency_ms@cpu"


@pytest.mark.parametrize(
    ("metrics", "devices", "line"),
    [
        (["latency"], None, r"the metric must be one of \[.*\], but got 'latency'"),
        (None, ["tpu"], r"the device must be one of \['cpu', 'phone'\], but got 'tpu'"),
        (["accuracy"], ["cpu"], "metrics and devices must leave something of .* together they leave nothing"),
        (["x" * 500], None, "but got 'x{57}...'"),
    ],
)
def test_unknown_things_are_one_line(catalog: Catalog, metrics, devices, line: str) -> None:
    with pytest.raises(RequestError, match=line):
        catalog.select(metrics, devices)


def test_a_metric_of_two_devices_must_be_told_apart(catalog: Catalog) -> None:
    with pytest.raises(RequestError, match="'latency_ms' is measured on more than one device"):
        catalog.resolve("latency_ms")
    with pytest.raises(RequestError, match="'energy_mj' is not known"):
        catalog.resolve("energy_mj")
    with pytest.raises(RequestError, match="the device must be one of"):
        catalog.resolve("latency_ms", "tpu")


def test_what_does_not_belong_together_is_refused(tmp_path: Path, run: Path) -> None:
    first = served.write(tmp_path / "a.safetensors", "latency_ms", "cpu", "ms")
    with pytest.raises(UserError, match=r"there must be one predictor of latency_ms@cpu, but .* is a second one"):
        load([first, first], plan_of=served.plan_of)
    other = SearchSpace([Gene(name, (1, 2, 3)) for name in "abcdef"])
    second = served.write(tmp_path / "b.safetensors", "accuracy", None, "share", space=other)
    with pytest.raises(UserError, match=r"must be of the same search space as .*a.safetensors"):
        load([first, second], plan_of=served.plan_of)
    with pytest.raises(UserError, match="must be of the configuration's search space"):
        load([first, run], plan_of=served.plan_of)
    with pytest.raises(UserError, match="there must be one predictor of accuracy"):
        load([run, run], plan_of=served.plan_of)
    with pytest.raises(UserError, match="there must be at least one predictor file or run folder, but got none"):
        load([], plan_of=served.plan_of)
    with pytest.raises(UserError, match=r"must hold a mapping, but holds str"):
        (tmp_path / "c.yaml").write_text("x")
        load([first], plan_of=served.plan_of, config=tmp_path / "c.yaml")
    with pytest.raises(UserError, match=r"none.yaml must be a configuration, but"):
        load([first], plan_of=served.plan_of, config=tmp_path / "none.yaml")


def test_a_second_run_is_refused(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "predictors")
    with pytest.raises(UserError, match=r"at most one run may be given, but .* is a second one"):
        load([run, copy], plan_of=served.plan_of)


def test_tampered_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = served.write(tmp_path / "a.safetensors", "latency_ms", "cpu", "ms")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(PredictorFileError, match="does not match its digest"):
        load([path], plan_of=served.plan_of)
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'false'\ntR.")  # a pickle
    with pytest.raises(PredictorFileError, match="cannot be read"):
        load([path], plan_of=served.plan_of)


def test_a_file_that_does_not_say_its_range(tmp_path: Path) -> None:
    path = served.write(tmp_path / "a.safetensors", "latency_ms", "cpu", "ms", notes=False)
    assert load([path], plan_of=served.plan_of).entries["latency_ms@cpu"].range is None
    np.testing.assert_array_equal(load([path], plan_of=served.plan_of).trials.rows.shape, (0, 6))


def test_a_study_that_is_only_read_records_nothing(run: Path) -> None:
    plan = served.plan_of(RunFolder(run).load_config(), "test")
    study = Study(
        plan.config.name,
        plan.space,
        objectives=plan.objectives,
        devices=plan.measured,
        storage=open_storage(None, RunFolder(run).journal),
        read_only=True,
    )
    rows = plan.space.enumerate()
    (index,) = study.start(rows[not_in(rows, np.stack([t.row for t in study.trials]))][:1])
    with pytest.raises(RuntimeError, match="must be opened for writing to record trials, but it was opened read-only"):
        study.record(index, Evaluation({"accuracy": 1.0}, 0.1))

"""Precision as a gene: which device measures what, where accuracy comes from, and what a failing device costs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwsearch import pareto
from hwsearch.build import Factory, load_raw
from hwsearch.commands.query import front
from hwsearch.commands.run import run
from hwsearch.devices.simulated_device import SimulatedDevice
from hwsearch.distribution import workers
from hwsearch.errors import ConfigError, DeviceError, UserError
from hwsearch.results import Artifact, Measurement
from search_spaces.precision import PRECISIONS, bytes_at, precision_gene
from tests.hwsearch.runs import Silent, costs_only, digits, write

FAST = {"batch": 8, "warmup": 1, "repeats": 3, "max_seconds": 0.05}


def two_targets(**changes: Any) -> dict[str, Any]:
    """Costs and two simulated devices: one takes fp32, the other int8; no gene is given, the devices say it."""
    raw = costs_only(
        objectives=["macs", "latency_ms@a", "latency_ms@b", "stored_bytes"],
        devices={
            "a": {"runtime": "simulated", "options": {"noise": 0}},
            "b": {"runtime": "simulated", "precisions": ["int8"], "options": {"noise": 0, "int8_speedup": 4}},
        },
        search={"engine": "nsga2", "trials": 40, "options": {"population": 10}},
        sparsity=None,
        limits=[{"metric": "latency_ms@b", "max": 1.0}],
    )
    return {**raw, **changes}


def trials(folder: Path) -> list[Any]:
    from hwsearch.commands.query import run_plan
    from hwsearch.study import Study, open_storage

    plan, _ = run_plan(folder)
    tracked: dict[str, Any] = {"objectives": plan.objectives, "limits": plan.limits, "devices": plan.measured}
    storage = open_storage(None, folder / "study.log")
    return Study(plan.config.name, plan.space, **tracked, admitted=plan.admitted, storage=storage).trials


# ---- the gene ------------------------------------------------------------------------------------------------------


def test_bytes_depend_on_the_precision() -> None:
    supernet = load_raw(two_targets(), source="c").supernet(meta=True)
    rows = supernet.space.sample(50, np.random.default_rng(0))
    chosen = rows[:, supernet.space.index["precision"]]
    costs = supernet.costs(rows)
    for i, precision in enumerate(("fp32", "int8")):
        of = chosen == i
        assert of.any()
        assert np.array_equal(costs.stored_bytes[of], supernet.model_bytes(rows, precision)[of])  # type: ignore[arg-type]
    arch = supernet.space.architecture(rows[0])
    assert supernet.layer_costs(arch).metrics() == costs.metrics(0)
    layers = supernet.layers(rows)
    sizes = {p: bytes_at(layers, len(rows), p) for p in PRECISIONS}
    assert np.array_equal(sizes["int8-dynamic"], sizes["int8"])  # nothing but linear layers
    assert (sizes["int8"] < sizes["bf16"]).all()
    assert (sizes["bf16"] < sizes["fp32"]).all()
    for call in (lambda: bytes_at(layers, 50, "int4"), lambda: precision_gene(("int4",))):
        with pytest.raises(ValueError, match="precision must be one of"):
            call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": {"choices": ["fp32", "int4"]}}, "precision.choices: precision must be one of ['fp32', "),
        (
            {"precision": {"choices": ["fp32", "bf16", "int8"]}},
            "precision.choices: bf16 must be admitted by a device of an objective (a, b), but by none it is.",
        ),
        (
            {"precision": {"choices": ["fp32"]}},
            "devices.b.precisions must hold one of the precisions that are searched (fp32), but got int8.",
        ),
        ({"precision": {"choices": ["fp32"], "per": "layer"}}, "precision.per must be 'model', but got 'layer'."),
        ({"precision": {"choices": []}}, "precision.choices must be a list of at least 1, but got []."),
    ],
)
def test_precisions_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_raw(two_targets(**changes), source="c")
    assert message in str(caught.value)


def test_absent_values_lie_beyond_the_worst() -> None:
    losses = np.array([[1.0, 5.0], [3.0, np.nan], [np.nan, 7.0]])
    filled = pareto.beyond(losses, np.isnan(losses))
    assert filled == pytest.approx(np.array([[1.0, 5.0], [3.0, 7.2], [3.2, 7.0]]))
    assert pareto.beyond(np.array([[np.nan]]), np.array([[True]])).tolist() == [[0.0]]
    assert pareto.beyond(np.array([[2.0], [np.nan]]), np.array([[False], [True]]))[1, 0] > 2.0
    kept = np.array([[np.nan, 1.0]])
    assert math.isnan(pareto.beyond(kept, np.array([[False, False]]))[0, 0])


# ---- one run, two targets ------------------------------------------------------------------------------------------


def test_each_device_measures_what_it_admits_and_has_a_front_of_its_own(tmp_path: Path) -> None:
    raw = two_targets()
    outcome = run(write(tmp_path, raw), run_dir=tmp_path / "run", observer=Silent())
    assert (outcome.n_trials, outcome.n_failed) == (40, 0)
    found = trials(tmp_path / "run")
    assert {t.attributes["engine"] for t in found} == {"NSGA2"}
    by_place = {place: [t for t in found if f"latency_ms@{place}" in t.metrics] for place in "ab"}
    assert len(by_place["a"]) + len(by_place["b"]) == 40  # each on one of them
    assert min(len(of) for of in by_place.values()) >= 5
    fronts = outcome.front["fronts"]
    members = {m.key: m for m in outcome.members}
    assert set(fronts["a"]) | set(fronts["b"]) == set(members)
    for place, precision in (("a", "fp32"), ("b", "int8")):
        assert fronts[place]
        assert all(members[key].architecture["precision"] == precision for key in fronts[place])
        # The front of a device is the front of what that device measured.
        names = ["macs", f"latency_ms@{place}", "stored_bytes"]
        losses = np.array([[t.metrics[name] for name in names] for t in by_place[place]])
        best = {t.key for t, is_best in zip(by_place[place], pareto.front(losses), strict=True) if is_best}
        assert best == set(fronts[place])
    assert not any(m.behind or m.passed for m in outcome.members)
    before = (tmp_path / "run/front.json").read_bytes()
    again = run(write(tmp_path, raw), run_dir=tmp_path / "run", observer=Silent())
    assert again.n_trials == 40
    assert (tmp_path / "run/front.json").read_bytes() == before
    of_b = front(tmp_path / "run", device="b")
    assert {m["key"] for m in of_b["members"]} == set(fronts["b"])
    assert [o["device"] for o in of_b["objectives"]] == [None, "b", None]
    with pytest.raises(UserError, match=r"--device must be a device of the run's objectives .* got 'c'"):
        front(tmp_path / "run", device="c")
    # A device that takes neither comes too late.
    raw["devices"]["c"] = {"runtime": "simulated", "precisions": ["bf16"]}
    raw["objectives"].append("latency_ms@c")
    with pytest.raises(ConfigError, match=r"devices\.c\.precisions must hold one of .* \(fp32, int8\), but got bf16"):
        run(write(tmp_path, raw), run_dir=tmp_path / "run", observer=Silent())


def test_two_engines_one_accuracy_pass_per_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    calls: list[tuple[str, str, str]] = []
    real = workers.evaluate_artifact

    def counted(exporter: Any, artifact: Artifact, split: Any, **options: Any) -> Any:
        calls.append((exporter.format, artifact.precision, split.name))
        return real(exporter, artifact, split, **options)

    monkeypatch.setattr(workers, "evaluate_artifact", counted)
    raw = digits(
        training={"epochs": 1, "batch_size": 64},
        evaluation={"quantization_images": 16},
        objectives=["accuracy", "latency_ms@ort", "latency_ms@ov"],
        precision={"choices": ["fp32", "int8"]},
        sparsity=None,
        devices={
            "ort": {"runtime": "onnxruntime", **FAST},
            "ov": {"runtime": "openvino", "precisions": ["int8"], **FAST},
        },
        search={"engine": "random", "trials": 5},
    )
    outcome = run(write(tmp_path, raw), run_dir=tmp_path / "run", observer=Silent())
    assert outcome.n_failed == 0
    found = trials(tmp_path / "run")
    quantised = [t for t in found if "latency_ms@ov" in t.metrics]
    assert 0 < len(quantised) < 5
    assert all(t.attributes["engine_accuracy"] == {"openvino": t.metrics["accuracy"]} for t in quantised)
    assert calls.count(("openvino", "int8", "search")) == len(quantised)
    members = {m.key: m for m in outcome.members}
    assert set(outcome.exported) == set(members)
    for device, precision in (("ort", "fp32"), ("ov", "int8")):
        for key in outcome.front["fronts"][device]:
            member = members[key]
            assert list(member.measured) == [device]  # measured again, by its own device alone
            card = json.loads((tmp_path / "run/models" / key / "card.json").read_text())
            form = "onnx" if precision == "fp32" else "openvino-int8"
            assert list(card["exports"]) == [form, "safetensors"]
            assert card["exports"][form]["accuracy"]["value"] == pytest.approx(member.validated["accuracy"], abs=0.003)
            timed = card["exports"][form]["latency"][device]
            assert timed["value"] == member.validated[f"latency_ms@{device}"]


def test_a_quantised_net_without_a_device_is_scored_by_a_stand_in() -> None:
    raw = digits(
        objectives=["accuracy", "stored_bytes", "latency_ms@sim"],
        precision={"choices": ["int8"]},
        evaluation={"quantization_images": 16},
        devices={"sim": {"runtime": "simulated", "precisions": ["int8"]}},
        sparsity=None,
    )
    plan = load_raw(raw, source="c")
    worker = Factory(plan.config.to_dict()).accuracy(plan.supernet().to_arrays())
    evaluation, artifacts = worker.evaluate(workers.EvaluateJob(0, plan.space.row(plan.space.smallest())))
    assert evaluation.error is None
    assert evaluation.attributes["engine_accuracy"] == {"onnx": evaluation.metrics["accuracy"]}
    assert {name: a.precision for name, a in artifacts.items()} == {"sim": "int8"}


# ---- devices that fail ---------------------------------------------------------------------------------------------


def both(**changes: Any) -> dict[str, Any]:
    exact = {"runtime": "simulated", "options": {"noise": 0}}
    devices = {"good": exact, "bad": exact}
    raw = costs_only(
        objectives=["macs", "latency_ms@good", "latency_ms@bad"],
        devices=devices,
        search={"engine": "nsga2", "trials": 8, "options": {"population": 4}},
        sparsity=None,
        limits=[],
    )
    return {**raw, **changes}


def test_a_device_that_refuses_every_net_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = SimulatedDevice.measure

    def refuse(self: SimulatedDevice, artifacts: Sequence[Artifact]) -> list[Mapping[str, Measurement]]:
        if self.spec.name == "bad":
            raise DeviceError("ssh: connect to host board port 22: Connection refused")
        return real(self, artifacts)

    monkeypatch.setattr(SimulatedDevice, "measure", refuse)
    seen = Silent()
    outcome = run(write(tmp_path, both()), run_dir=tmp_path / "run", observer=seen)
    assert (outcome.n_trials, outcome.n_failed) == (8, 0)
    line = "bad could not measure 8 of 8 nets; the last: bad: DeviceError: ssh: connect to host board port 22: "
    assert [note for note in seen.notes if note.startswith("bad")] == [f"{line}Connection refused"]
    assert outcome.front["fronts"]["bad"] == []
    assert set(outcome.front["fronts"]["good"]) == {m.key for m in outcome.members}
    assert all(m.error is None and not m.behind for m in outcome.members)
    assert all(m.refused["bad"].startswith("DeviceError: ssh") for m in outcome.members)


def test_a_device_that_does_not_come_up_is_left_out_and_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Factory.lane

    def lane(self: Factory, device: str) -> Any:
        if device == "bad":
            raise DeviceError("board is off")
        return real(self, device)

    monkeypatch.setattr(Factory, "lane", lane)
    seen = Silent()
    outcome = run(write(tmp_path, both()), run_dir=tmp_path / "run", observer=seen)
    assert (outcome.n_trials, outcome.n_failed) == (8, 0)
    notes = [note for note in seen.notes if "bad" in note]
    assert notes == ["the run went on without bad: the worker could not be made: DeviceError: board is off"]
    assert all("latency_ms@bad" not in m.validated for m in outcome.members)
    monkeypatch.undo()
    outcome = run(write(tmp_path, both()), run_dir=tmp_path / "run", observer=Silent())
    assert (outcome.n_trials, outcome.n_failed) == (8, 0)
    assert all("latency_ms@bad" in t.metrics for t in trials(tmp_path / "run"))
    assert all("latency_ms@bad" in m.validated for m in outcome.members)


def test_a_runtime_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = both(devices={"good": {"runtime": "simulated"}, "bad": {"runtime": "openvino"}})
    monkeypatch.setitem(sys.modules, "openvino", None)
    seen = Silent()
    outcome = run(write(tmp_path, raw), run_dir=tmp_path / "run", observer=seen)
    assert outcome.n_failed == 0
    (note,) = [note for note in seen.notes if "bad" in note]
    assert note.startswith(
        "the run goes on without bad: device bad needs openvino, which is not installed: pip install"
    )
    raw["objectives"] = ["macs", "latency_ms@bad"]
    with pytest.raises(ConfigError, match=r"device bad needs openvino, which is not installed: pip install"):
        load_raw(raw, source="c")

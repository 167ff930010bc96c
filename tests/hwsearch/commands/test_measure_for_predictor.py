"""`hwsearch measure-for-predictor`: stops where it should, loses nothing, and continues."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hwsearch.commands import measure_for_predictor as module
from hwsearch.commands.measure_for_predictor import Progress, measure_for_predictor
from hwsearch.commands.measurement_log import MeasurementLog
from hwsearch.commands.space_source import open_space
from hwsearch.devices.simulated_device import SimulatedDevice
from hwsearch.errors import DeviceError, NoResultError, UserError
from hwsearch.results import Measurement
from predictors.files import load

NETWORK = {
    "name": "net",
    "supernet": {"family": "mlp", "params": {"input_shape": [8], "n_classes": 4, "hidden": [[4, 8, 16, 32]] * 4}},
    "objectives": ["macs"],
    "devices": {"sim": {"runtime": "simulated", "options": {"overhead_ms": 0.00001, "noise": 0.01}}},
}
ASK: dict[str, Any] = {"device": "sim", "target_error": 3.0, "budget": 40, "model": "ridge"}
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "net.yaml"
    path.write_text(yaml.safe_dump(NETWORK))
    return str(path)


def lines(out: Path) -> list[str]:
    return out.with_suffix(".measurements").joinpath("table.csv").read_text().splitlines()


def test_ends_at_the_target_and_the_table_fits_again(config: str, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "p.safetensors"
    base = ["measure-for-predictor", config, "--device", "sim", "--out", out, "--model", "ridge"]
    code, text, error = cli(*base, "--target-error", 4, "--budget", 60, "--figure", tmp_path / "p.png")
    assert code == 0, error
    n = len(lines(out)) - 1
    assert 12 <= n < 60
    assert f"latency_ms on sim: {n} architectures" in text
    assert f"target error    4 %: reached with {n} networks" in text
    assert f"{n}/60 measured, error " in error
    stored = json.loads(out.with_suffix(".json").read_text())
    assert stored["ended"] == "target"
    assert stored["error"] + stored["error_std"] <= 4
    assert (tmp_path / "p.png").is_file()
    source = open_space(config)
    found = load(out, space=source.space, sources=source.sources, metric="latency_ms", unit="ms")
    assert (found.card.device, found.card.n_rows) == ("sim", n)
    assert found.card.device_fingerprint["runtime"] == "simulated"
    table = out.with_suffix(".measurements") / "table.csv"
    again = ["fit", table, "--space", config, "--target", "latency_ms", "--out", tmp_path / "q.safetensors"]
    code, text, _ = cli(*again, "--model", "ridge", "--json")
    assert code == 0
    assert json.loads(text)["report"]["mape"] == pytest.approx(stored["report"]["mape"])


def test_ends_at_the_budget_and_a_larger_one_continues(config: str, tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    first = measure_for_predictor(config, out=out, **{**ASK, "target_error": 0.01, "budget": 14})
    assert (first["ended"], first["tried"], first["n_rows"]) == ("budget", 14, 14)
    before = lines(out)
    seen: list[Progress] = []
    second = measure_for_predictor(config, out=out, observe=seen.append, **{**ASK, "target_error": 0.01, "budget": 20})
    assert second["n_rows"] == 20
    assert lines(out)[:15] == before  # what was measured is not measured again
    assert seen[0] == Progress(14, 14, 20, seen[0].error, seen[0].error_std)
    assert [line.split(",")[-2] for line in before[1:]] == [str(i // 4) for i in range(14)]  # networks beside it
    genes = [line.rsplit(",", 4)[0] for line in lines(out)[1:]]
    assert len(set(genes)) == 20
    third = measure_for_predictor(config, out=out, **{**ASK, "target_error": 0.01, "budget": 20})
    assert third["report"] == second["report"]


def test_the_same_measurements_choose_the_same_networks(config: str, tmp_path: Path) -> None:
    """Stopping and continuing at any group changes nothing: the choice depends on the table alone."""
    given = {**ASK, "target_error": 0.01}
    measure_for_predictor(config, out=tmp_path / "a.safetensors", **{**given, "budget": 16})
    for budget in (4, 12, 16):
        measure_for_predictor(config, out=tmp_path / "b.safetensors", **{**given, "budget": budget})
    a, b = ([line.split(",")[:4] for line in lines(tmp_path / f"{x}.safetensors")] for x in "ab")
    assert a == b


def test_a_killed_process_loses_nothing(config: str, tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    command = [sys.executable, "-m", "hwsearch", "measure-for-predictor", config, "--device", "sim", "--out", str(out)]
    command += ["--target-error", "0.001", "--budget", "250", "--model", "ridge"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    table = out.with_suffix(".measurements") / "table.csv"
    end = time.monotonic() + 90
    while time.monotonic() < end and (not table.is_file() or table.read_bytes().count(b"\n") < 9):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    whole = table.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    with table.open("ab") as file:
        file.write(b"4,8,1")  # a line that the kill tore
    n = kept.count(b"\n") - 1
    assert n >= 8
    answer = measure_for_predictor(config, out=out, **{**ASK, "target_error": 0.001, "budget": n + 4})
    assert answer["tried"] == n + 4
    assert table.read_bytes().startswith(kept)
    assert b"4,8,1" not in table.read_bytes()[len(kept) :].splitlines()


def test_networks_that_fail_are_kept_and_not_tried_again(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = SimulatedDevice.measure

    def moody(self: SimulatedDevice, artifacts: Any) -> Any:
        if any(a.costs["parameters"] < 600 for a in artifacts):
            raise DeviceError("the device does not like\nsmall nets")
        return honest(self, artifacts)

    monkeypatch.setattr(SimulatedDevice, "measure", moody)
    out = tmp_path / "p.safetensors"
    answer = measure_for_predictor(config, out=out, **{**ASK, "target_error": 0.01, "budget": 24})
    failed = [line for line in lines(out)[1:] if line.endswith("small nets")]
    assert answer["tried"] == 24
    assert answer["unlabelled"] == len(failed) > 0
    assert answer["n_rows"] == 24 - len(failed)
    assert len({line.rsplit(",", 4)[0] for line in lines(out)[1:]}) == 24


def test_a_device_that_measures_nothing(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ill(self: SimulatedDevice, artifacts: Any) -> Any:
        raise DeviceError("the cable is out")

    monkeypatch.setattr(SimulatedDevice, "measure", ill)
    with pytest.raises(DeviceError, match=r"device sim must measure some network, but none of 8: .*the cable is out"):
        measure_for_predictor(config, out=tmp_path / "p.safetensors", **ASK)
    with pytest.raises(NoResultError, match="a predictor needs 2 measured networks, but only 0 could be measured"):
        measure_for_predictor(config, out=tmp_path / "q.safetensors", **{**ASK, "budget": 4})


def test_values_that_teach_nothing(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (2.0, 0.0):

        def flat(self: SimulatedDevice, artifacts: Any, value: float = value) -> Any:
            return [{"latency_ms": Measurement(value, 0.0, "ms")} for _ in artifacts]

        monkeypatch.setattr(SimulatedDevice, "measure", flat)
        with pytest.raises(NoResultError, match="no predictor can be fitted: values must differ"):
            measure_for_predictor(config, out=tmp_path / f"{value}.safetensors", **ASK)


def test_a_zero_has_no_error_in_percent(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def some(self: SimulatedDevice, artifacts: Any) -> Any:
        return [{"latency_ms": Measurement(max(0.0, a.costs["macs"] - 500), 0.0, "ms")} for a in artifacts]

    monkeypatch.setattr(SimulatedDevice, "measure", some)
    with pytest.raises(NoResultError, match="an error in percent needs values other than 0"):
        measure_for_predictor(config, out=tmp_path / "p.safetensors", **ASK)


def test_a_small_space_ends_with_its_last_network(tmp_path: Path) -> None:
    raw = {**NETWORK, "supernet": {"family": "mlp", "params": {"input_shape": [8], "n_classes": 4, "hidden": [[4, 8]]}}}
    raw["supernet"]["params"]["hidden"] = [[4, 8, 16], [4, 8, 16]]
    path = tmp_path / "net.yaml"
    path.write_text(yaml.safe_dump(raw))
    answer = measure_for_predictor(str(path), out=tmp_path / "p.safetensors", **{**ASK, "target_error": 0.001})
    assert (answer["tried"], answer["ended"]) == (9, "budget")


def test_only_measurements_that_belong_together_are_continued(config: str, tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    given = {**ASK, "target_error": 0.01, "budget": 4}
    measure_for_predictor(config, out=out, **given)
    raw = {**NETWORK, "devices": {"sim": {"runtime": "simulated", "options": {"noise": 0.5}}}}
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match=r"p\.measurements must hold measurements of this device to continue"):
        measure_for_predictor(str(other), out=out, **given)
    raw = {**NETWORK, "sparsity": {"choices": ["dense", "unstructured-0.5"], "per": "model"}}
    other.write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match=r"must hold measurements of this space to continue"):
        measure_for_predictor(str(other), out=out, **given)
    card = out.with_suffix(".measurements") / "card.json"
    card.write_text("{")
    with pytest.raises(UserError, match=r"card\.json must be JSON, but is damaged"):
        measure_for_predictor(config, out=out, **given)
    card.unlink()
    with pytest.raises(UserError, match=r"must hold card\.json beside its table, but does not"):
        measure_for_predictor(config, out=out, **given)


def test_the_reference_value_is_frozen_and_used_again(config: str, tmp_path: Path) -> None:
    space = open_space(config).space
    log = MeasurementLog(tmp_path / "log", space, metrics=("latency_ms", "energy_mj"))
    card = log.open({"space": "x"})
    assert log.freeze(card, 1.25) == {"space": "x", "reference_ms": 1.25}
    assert log.open({"space": "x"})["reference_ms"] == 1.25
    row = space.row(space.smallest())
    log.add(row, {"latency_ms": Measurement(2.0, 0.1, "ms")}, run=0)
    log.add(space.row(space.largest()), "broke,\nbadly", run=1)
    found = log.read("latency_ms")
    np.testing.assert_array_equal(found.rows, [row])
    assert (len(found.tried), found.values.tolist(), found.stds.tolist()) == (2, [2.0], [0.1])
    assert (found.runs.tolist(), found.n_runs) == ([0], 2)
    assert len(log.read("energy_mj").rows) == 0
    log.table.write_text(log.table.read_text().replace("run", "walk", 1))
    with pytest.raises(UserError, match=r"table\.csv must have the columns .*, run, error to continue"):
        log.open({"space": "x"})


def test_a_header_that_a_kill_prevented(config: str, tmp_path: Path) -> None:
    space = open_space(config).space
    log = MeasurementLog(tmp_path / "log", space, metrics=("latency_ms",))
    log.open({})
    log.table.write_text("stage1.dep")
    log.open({})
    assert log.table.read_text().count("\n") == 1
    assert len(log.read("latency_ms").tried) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"device": "gpu"}, r"a device must be a YAML file or one of .*'sim'.*, but got 'gpu'"),
        ({"target_error": 0.0}, "--target-error must be a positive percentage, but got 0.0"),
        ({"target_error": float("nan")}, "--target-error must be a positive percentage"),
        ({"budget": 1}, "--budget must be at least 2, but got 1"),
        ({"seed": -1}, "--seed must be at least 0, but got -1"),
        ({"metric": "energy_mj"}, r"--metric must be one of \['latency_ms'\] that sim measures, but got 'energy_mj'"),
        ({"model": "magic"}, "the model must be one of"),
        ({"out": Path("p.csv")}, r"--out must end in \.safetensors"),
    ],
)
def test_arguments_that_are_refused(config: str, tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        measure_for_predictor(config, **{**ASK, "out": tmp_path / "p.safetensors", **more})
    assert not (tmp_path / "p.measurements").exists()


def test_a_device_that_does_not_admit_a_precision_of_the_space(tmp_path: Path) -> None:
    path = tmp_path / "net.yaml"
    path.write_text(yaml.safe_dump({**NETWORK, "precision": {"choices": ["fp32", "int8"]}}))
    with pytest.raises(UserError, match=r"device sim must admit every precision of the space \(fp32, int8\)"):
        measure_for_predictor(str(path), out=tmp_path / "p.safetensors", **ASK)


def test_bare_genes_cannot_be_measured(tmp_path: Path) -> None:
    path = tmp_path / "genes.yaml"
    path.write_text("genes: {a: [1, 2]}")
    with pytest.raises(UserError, match=r"only networks can be measured, but .*genes\.yaml holds bare genes"):
        measure_for_predictor(str(path), out=tmp_path / "p.safetensors", **ASK)


def test_first_measurements_fill_the_space(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP", 12)
    out = tmp_path / "p.safetensors"
    measure_for_predictor(config, out=out, **{**ASK, "budget": 12, "target_error": 0.01})
    rows = [line.split(",")[:4] for line in lines(out)[1:]]
    for gene in range(4):
        assert {"4", "32"} <= {row[gene] for row in rows}  # both ends of every gene


def test_a_device_of_another_precision(config: str, tmp_path: Path) -> None:
    device = tmp_path / "int8.yaml"
    device.write_text("{runtime: simulated, precisions: [int8], options: {int8_speedup: 4, noise: 0.01}}")
    given = {**ASK, "device": str(device), "budget": 4, "target_error": 0.01}
    answer = measure_for_predictor(config, out=tmp_path / "p.safetensors", **given)
    assert (answer["device"], answer["n_rows"], answer["unlabelled"]) == ("int8", 4, 0)

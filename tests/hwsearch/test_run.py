from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from hwsearch.build import load_raw
from hwsearch.commands.run import RunOutcome, run
from hwsearch.config import set_path
from hwsearch.distribution import workers
from hwsearch.errors import NoResultError, RunFolderError, UserError, WorkerError
from hwsearch.report.plot import front_png
from hwsearch.results import SearchProgress, State
from hwsearch.study import Study, open_storage
from tests.hwsearch.runs import costs_only, digits, write

ROOT = Path(__file__).resolve().parents[2]


class Log:
    """Notes what a run tells its observer."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.notes: list[str] = []
        self.progress: list[SearchProgress] = []
        self.steps: list[tuple[int, int]] = []

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def training(self, progress: object) -> None:
        pass

    def search(self, progress: SearchProgress) -> None:
        self.progress.append(progress)

    def validation(self, done: int, total: int) -> None:
        self.steps.append((done, total))


Cli = Callable[..., tuple[int, str, str]]


def strict(text: str) -> Any:
    """Reads JSON in which NaN and Infinity are errors."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def go(folder: Path, raw: dict[str, Any], *overrides: str) -> tuple[RunOutcome, Log]:
    log = Log()
    folder.mkdir(parents=True, exist_ok=True)
    return run(write(folder, raw), overrides=overrides, run_dir=folder / "run", observer=log), log


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run on digits, from nothing to exported models. Not to be changed."""
    base = tmp_path_factory.mktemp("finished")
    outcome, log = go(base, digits())
    assert log.phases == ["train", "search", "validate", "export"]
    assert outcome.n_trials == 12
    assert outcome.n_failed == 0
    assert outcome.folder.path == base / "run"
    assert set(outcome.exported) == {m.key for m in outcome.members}
    assert log.progress[-1].n_done == log.progress[-1].n_trials == 12
    assert log.steps[-1] == (2 * len(outcome.members), 2 * len(outcome.members))
    return base / "run"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to be changed."""
    shutil.copytree(finished, tmp_path / "run")
    shutil.copy(finished.parent / "config.yaml", tmp_path / "config.yaml")
    return tmp_path / "run"


def again(folder: Path, *overrides: str) -> tuple[RunOutcome, Log]:
    log = Log()
    return run(folder.parent / "config.yaml", overrides=overrides, run_dir=folder, observer=log), log


def first_card(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = strict(sorted(folder.glob("models/*/card.json"))[0].read_text())
    return card


# ---- what a run leaves ---------------------------------------------------------------------------------------------


def test_the_front_in_all_forms(finished: Path) -> None:
    content = strict((finished / "front.json").read_text())
    members = content["members"]
    assert [o["metric"] for o in content["objectives"]] == ["accuracy", "latency_ms", "stored_bytes"]
    assert members
    for member in members:
        assert member["error"] is None
        assert member["remade"] is False
        assert set(member["artifacts"]) == {"cpu", "weights"}
        for name in ("accuracy", "latency_ms@cpu", "stored_bytes"):
            assert member["validated"][name] > 0
        assert member["validated"]["stored_bytes"] == member["metrics"]["stored_bytes"]
        assert member["validated_stds"]["accuracy"] > 0
        environment = member["measured"]["cpu"]["latency_ms"]["environment"]
        assert environment["runtime"] == "onnxruntime"
        assert environment["batch"] == 64
    # The search measured on one split, the validation on another: equal accuracies everywhere would be odd.
    assert any(m["validated"]["accuracy"] != m["metrics"]["accuracy"] for m in members)
    with (finished / "front.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == [m["key"] for m in members]
    for row, member in zip(rows, members, strict=True):
        assert float(row["accuracy:validated"]) == member["validated"]["accuracy"]
        assert float(row["latency_ms@cpu:search"]) == member["metrics"]["latency_ms@cpu"]
        assert {gene: row[gene] for gene in member["architecture"]} == {
            gene: str(value) for gene, value in member["architecture"].items()
        }
    assert (finished / "front.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_members_beat_each_other_nowhere_in_the_search(finished: Path) -> None:
    members = strict((finished / "front.json").read_text())["members"]
    for a in members:
        for b in members:
            worse = [
                a["metrics"]["accuracy"] <= b["metrics"]["accuracy"],
                a["metrics"]["latency_ms@cpu"] >= b["metrics"]["latency_ms@cpu"],
                a["metrics"]["stored_bytes"] >= b["metrics"]["stored_bytes"],
            ]
            assert a is b or not all(worse)


def test_cards_tell_all_there_is_to_know(finished: Path) -> None:
    cards = [strict(path.read_text()) for path in finished.glob("models/*/card.json")]
    members = {m["key"]: m for m in strict((finished / "front.json").read_text())["members"]}
    assert {card["key"] for card in cards} == set(members)
    for card in cards:
        member = members[card["key"]]
        assert card["format_version"] == 1
        assert card["architecture"] == member["architecture"]
        assert card["weights"] == "trained in this run"
        assert card["metrics"]["accuracy"]["value"] == member["validated"]["accuracy"]
        assert card["metrics"]["latency_ms@cpu"]["std"] == member["validated_stds"]["latency_ms@cpu"]
        assert card["agreement"]["max_rel_error"] <= 1e-4
        assert card["agreement"]["top1_agreement"] == 1.0
        assert card["agreement"]["n_examples"] == 8 + 64
        assert set(card["data"]["sha256"]) == {"train", "search", "holdout"}
        assert len(card["data"]["holdout_rows"]) == card["data"]["sizes"]["holdout"] == 359
        assert card["data"]["preprocessing"]["repeat"] == 2
        assert {"hwsearch", "torch", "onnxruntime", "python"} <= set(card["versions"])
        assert card["command"]
        folder = finished / "models" / card["key"]
        assert set(card["files"]) == {"model.onnx", "model.safetensors", "model.sparse.safetensors", "model.py"}
        assert set(card["exports"]) == {"onnx", "safetensors"}
        for entry in card["exports"].values():
            assert entry["agreement"]["max_rel_error"] <= 1e-4
            assert entry["accuracy"]["value"] == pytest.approx(member["validated"]["accuracy"], abs=0.003)
            assert entry["accuracy"]["n"] == 359
        timed = card["exports"]["onnx"]["latency"]["cpu"]
        assert timed["value"] == member["validated"]["latency_ms@cpu"]
        assert timed["half_width"] > 0
        assert card["license"] == "not stated"
        assert card["provenance"]["run"] == "tiny"
        assert set(card["provenance"]["inputs"]["data"]) == {"train", "search", "holdout"}
        for name, entry in card["files"].items():
            assert (folder / name).stat().st_size == entry["bytes"]


def test_sparse_weights_take_the_bytes_that_were_counted(finished: Path) -> None:
    from hwsearch.export.weights import decode, payload_bytes

    for path in finished.glob("models/*"):
        card = strict((path / "card.json").read_text())
        sparse = (path / "model.sparse.safetensors").read_bytes()
        assert payload_bytes(sparse) == card["metrics"]["stored_bytes"]["value"]
        dense = safetensors.torch.load_file(path / "model.safetensors")
        assert all(torch.equal(tensor, dense[name]) for name, tensor in decode(sparse).items())


def test_everything_that_is_json_is_strict_json(finished: Path) -> None:
    files = [path for path in finished.rglob("*.json")]
    assert {path.name for path in files} >= {"front.json", "environment.json", "card.json", "artifact.json", "cpu.json"}
    for path in files:
        strict(path.read_text())
    for line in (finished / "study.log").read_text().splitlines():
        strict(line)
    assert not list(finished.rglob("*.part"))


TEN_LINES = """\
import json, sys
import numpy as np, onnxruntime
from sklearn.datasets import load_digits
card = json.load(open(sys.argv[1] + "/card.json"))
rows, p = card["data"]["holdout_rows"], card["data"]["preprocessing"]
images, labels = load_digits(return_X_y=True)
x = (images[rows].reshape(-1, 1, 8, 8) / p["scale"]).repeat(p["repeat"], axis=2).repeat(p["repeat"], axis=3)
session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx")
out = session.run(None, {session.get_inputs()[0].name: ((x - p["mean"][0]) / p["std"][0]).astype(np.float32)})[0]
print(json.dumps([float((out.argmax(axis=1) == labels[rows]).mean()), sorted({m.split(".")[0] for m in sys.modules})]))
"""


def test_ten_lines_reproduce_the_accuracy_of_a_card(finished: Path, tmp_path: Path) -> None:
    assert TEN_LINES.count("\n") == 10
    members = strict((finished / "front.json").read_text())["members"]
    best = max(members, key=lambda m: m["validated"]["accuracy"])
    folder = finished / "models" / best["key"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", TEN_LINES, str(folder)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    accuracy, modules = json.loads(done.stdout)
    assert abs(accuracy - strict((folder / "card.json").read_text())["metrics"]["accuracy"]["value"]) <= 0.002
    assert not {"hwsearch", "search_spaces", "predictors", "torch"} & set(modules)


# ---- the same call again -------------------------------------------------------------------------------------------


def test_a_complete_run_is_not_done_again(copied: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()}
    outcome, log = again(copied)
    assert log.phases == ["export"]
    assert "continuing with 12 recorded trials" in log.notes
    assert outcome.n_trials == 12
    assert len(outcome.exported) == len(outcome.members) > 0
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed <= {"config.yaml", "environment.json", "lock", "front.png", "report.html"}


def test_a_larger_budget_validates_the_new_front(copied: Path) -> None:
    before = (copied / "study.log").read_bytes()
    outcome, log = again(copied, "search.trials=16")
    assert log.phases == ["search", "validate", "export"]
    assert (copied / "study.log").read_bytes().startswith(before)
    assert outcome.n_trials == 16
    members = {m["index"] for m in strict((copied / "front.json").read_text())["members"]}
    assert members == {m.index for m in outcome.members}
    assert strict((copied / "front.json").read_text()) == outcome.front
    stale = {path.name for path in copied.glob("models/*")} - {m.key for m in outcome.members}
    assert bool(stale) == any("also holds nets that are not on this front" in note for note in log.notes)


@pytest.mark.parametrize("what", ["front.json", "artifacts", "weights", "models", "predictors", "front.png"])
def test_what_was_deleted_is_made_again(copied: Path, what: str) -> None:
    if what == "weights":
        member = strict((copied / "front.json").read_text())["members"][0]
        (copied / "artifacts" / member["artifacts"]["weights"] / "model.safetensors").write_bytes(b"damaged")
    elif (copied / what).is_dir():
        shutil.rmtree(copied / what)
    else:
        (copied / what).unlink()
    outcome, log = again(copied)
    assert outcome.n_trials == 12
    assert "train" not in log.phases
    assert ("validate" in log.phases) == (what in {"front.json", "artifacts", "weights"})
    assert len(list(copied.glob("models/*/card.json"))) == len(outcome.members)
    assert {p.stem for p in copied.glob("predictors/*.safetensors")} == {"accuracy", "latency_ms@cpu"}
    assert (copied / "front.png").exists()
    again(copied)


@pytest.mark.parametrize(
    ("overrides", "difference"),
    [
        (["seed=1"], "seed was 0 and is now 1"),
        (["name=other"], "name was 'tiny' and is now 'other'"),
        (
            ["supernet.params.hidden=[[8, 16]]"],
            "supernet.params.hidden was [[8, 16, 32], [8, 16, 32]] and is now [[8, 16]]",
        ),
        (["sparsity="], "sparsity was {'choices': ['dense', 'unstructured-0.5', 'unstructured-0... and is now None"),
        (["sparsity.per=layer"], "sparsity.per was 'stage' and is now 'layer'"),
        (["data.seed=4"], "data.seed was None and is now 4"),
        (["training.epochs=3"], "training.epochs was 2 and is now 3"),
        (["evaluation.batch=8"], "evaluation.batch was 256 and is now 8"),
        (["limits=[{metric: macs, max: 5000}]"], "limits was [] and is now"),
        (["storage=sqlite:///x.db"], "storage was None and is now 'sqlite:///x.db'"),
        (["devices.cpu.threads=2"], "device cpu.threads was None and is now 2"),
        (
            ["objectives=[accuracy, latency_ms@cpu]"],
            "objectives were ['accuracy', 'latency_ms@cpu', 'stored_bytes'] and are now ['accuracy', 'latency_ms@cpu']",
        ),
        (["objectives=[latency_ms@cpu, accuracy, stored_bytes]"], "and are now ['latency_ms@cpu', 'accuracy', 'stored"),
        (["devices={}", "objectives=[accuracy, stored_bytes]"], "device cpu was {"),
    ],
)
def test_a_folder_of_another_run(
    finished: Path, cli: Cli, overrides: list[str], difference: str, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    sets = [part for override in overrides for part in ("--set", override)]
    code, out, error = cli("run", finished.parent / "config.yaml", "--run-dir", finished, *sets)
    assert code == 2
    assert out == ""
    start = f"Error: run folder {finished} must be of the same run, but its "
    assert error.startswith(start)
    assert difference in error
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_engine_budget_and_executor_may_change(copied: Path) -> None:
    outcome, _ = again(copied, "search.engine=random", "search.options={}", "search.trials=13", "executor.retries=3")
    assert outcome.n_trials == 13
    stored = yaml.safe_load((copied / "config.yaml").read_text())
    assert stored["search"]["engine"] == "random"
    assert stored["executor"]["retries"] == 3


def test_inputs_that_changed_under_the_same_name(tmp_path: Path) -> None:
    supernet = load_raw(costs_only(), source="c").supernet()
    weights = tmp_path / "w.safetensors"
    safetensors.torch.save_file({n: t.detach().clone() for n, t in supernet.tensors().items()}, weights)
    raw = costs_only()
    raw["supernet"]["weights"] = str(weights)
    outcome, _ = go(tmp_path, raw)
    assert len(outcome.exported) == len(outcome.members) > 0
    assert first_card(tmp_path / "run")["weights"] == "from w.safetensors"
    assert first_card(tmp_path / "run")["data"] is None
    safetensors.torch.save_file({n: t.detach() + 1 for n, t in supernet.tensors().items()}, weights)
    with pytest.raises(RunFolderError, match="the weights' file of the same name had another digest"):
        go(tmp_path, raw)


# ---- unusual runs --------------------------------------------------------------------------------------------------


def test_a_space_smaller_than_the_budget(tmp_path: Path) -> None:
    raw = costs_only(sparsity=None, limits=[])
    raw["supernet"]["params"]["hidden"] = [[4, 8], [4, 8]]
    for _ in range(2):
        outcome, _ = go(tmp_path, raw)
        assert outcome.n_trials == 4
        assert outcome.exhausted


@pytest.mark.parametrize(
    "objectives", [["macs"], ["macs", "parameters"], [{"metric": "macs", "direction": "maximize"}]]
)
def test_one_objective_and_equal_objectives(tmp_path: Path, objectives: list[Any]) -> None:
    """Without sparsity MACs and parameters order the networks alike: the front is one net."""
    outcome, _ = go(tmp_path, costs_only(objectives=objectives, limits=[], sparsity=None))
    assert outcome.n_trials == 30
    assert len(outcome.members) == 1
    assert (tmp_path / "run/front.png").stat().st_size > 1000


@pytest.mark.parametrize(("nets", "n"), [(0, 0), (1, 1), (3, 3), (1000, None), ("all", None)])
def test_how_many_nets_are_exported(copied: Path, nets: int | str, n: int | None) -> None:
    shutil.rmtree(copied / "models")
    outcome, _ = again(copied, f"export.nets={nets}")
    expected = len(outcome.members) if n is None else min(n, len(outcome.members))
    assert len(outcome.exported) == len(list(copied.glob("models/*"))) == expected
    if n == 3 and expected == 3:
        accuracies = [m.validated["accuracy"] for m in outcome.members if m.key in outcome.exported]
        every = [m.validated["accuracy"] for m in outcome.members]
        assert max(accuracies) == max(every)
        assert min(accuracies) == min(every)


def test_without_a_device_nets_are_exported_all_the_same(tmp_path: Path) -> None:
    raw = digits(objectives=["accuracy", "macs"], devices={}, training={"epochs": 1, "batch_size": 64})
    outcome, _ = go(tmp_path, raw, "search.trials=4")
    assert len(outcome.exported) == len(outcome.members) > 0
    assert first_card(tmp_path / "run")["measured"] == {}
    assert (tmp_path / "run/models" / outcome.exported[0] / "model.onnx").stat().st_size > 100


def test_latency_alone_says_that_nothing_was_trained(tmp_path: Path) -> None:
    raw = digits(objectives=["latency_ms@cpu", "macs"], training=None)
    outcome, log = go(tmp_path, raw, "search.trials=4")
    assert "train" not in log.phases
    assert outcome.exported
    assert first_card(tmp_path / "run")["weights"] == "initial, never trained"


def test_costs_alone_leave_nothing_to_export(tmp_path: Path, cli: Cli) -> None:
    outcome, log = go(tmp_path, costs_only())
    assert outcome.exported == ()
    assert any(note.startswith("nothing is exported: there are no weights") for note in log.notes)
    code, _, error = cli("export", tmp_path / "run", "--key", outcome.members[0].key)
    assert code == 2
    assert "must have weights to be exported, but this run counts costs alone" in error


def test_a_limited_metric_that_is_no_objective(tmp_path: Path) -> None:
    raw = digits(
        objectives=["accuracy", "stored_bytes"],
        limits=[{"metric": "latency_ms@far", "max": 1e9}],
        devices={"far": {"runtime": "simulated"}},
        training={"epochs": 1, "batch_size": 64},
    )
    outcome, _ = go(tmp_path, raw)
    assert all("latency_ms@far" in m.validated for m in outcome.members)
    with (tmp_path / "run/front.csv").open(newline="") as file:
        assert "latency_ms@far:validated" in next(csv.reader(file))
    assert (tmp_path / "run/predictors/latency_ms@far.safetensors").exists()


def test_a_torch_device(tmp_path: Path) -> None:
    """Its archives differ from one export to the next, which must not make members suspicious."""
    raw = digits(training={"epochs": 1, "batch_size": 64})
    raw["devices"]["cpu"]["runtime"] = "torch"
    outcome, _ = go(tmp_path, raw, "search.trials=3")
    assert [m.error for m in outcome.members] == [None] * len(outcome.members)
    assert [m.remade for m in outcome.members] == [False] * len(outcome.members)
    assert len(outcome.exported) == len(outcome.members)
    _, log = go(tmp_path, raw, "search.trials=3")
    assert log.phases == ["export"]


def test_all_trials_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    def ill(*arguments: object, **keywords: object) -> None:
        raise RuntimeError("numbers are not finite [in/layer1]")

    monkeypatch.setattr(workers, "evaluate", ill)
    raw = digits(training={"epochs": 1, "batch_size": 64})
    path = write(tmp_path, raw)
    for _ in range(2):
        code, _, error = cli("run", path, "--run-dir", tmp_path / "run", "--set", "search.trials=3")
        assert code == 1
        assert error == (
            "Error: at least one network must be evaluated, but all 3 trials failed; "
            "3 of them with: RuntimeError: numbers are not finite [in/layer1]\n"
        )
    assert strict((tmp_path / "run/front.json").read_text())["members"] == []
    assert (tmp_path / "run/front.csv").read_text().startswith("key,trial")
    assert (tmp_path / "run/front.png").exists()
    monkeypatch.undo()
    outcome, _ = go(tmp_path, raw, "search.trials=5")
    assert outcome.n_failed == 3
    assert outcome.members


def test_no_network_keeps_the_limits(tmp_path: Path) -> None:
    raw = costs_only(limits=[{"metric": "parameters", "max": 100}, {"metric": "macs", "max": 1e9}])
    with pytest.raises(
        NoResultError,
        match=r"must keep the limits, but none of 30 trials does: parameters <= 100 \(the nearest has \d+\)\.$",
    ):
        go(tmp_path, raw)
    assert strict((tmp_path / "run/front.json").read_text())["members"] == []


def test_some_trials_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, n = workers.evaluate, iter(range(100))

    def sometimes(*arguments: Any, **keywords: Any) -> Any:
        if next(n) % 2:
            raise RuntimeError("ill")
        return real(*arguments, **keywords)

    monkeypatch.setattr(workers, "evaluate", sometimes)
    raw = digits(training={"epochs": 1, "batch_size": 64})
    log = Log()
    outcome = run(write(tmp_path, raw), overrides=["search.trials=6"], run_dir=tmp_path / "run", observer=log)
    assert outcome.n_failed == 3
    assert log.progress[-1].n_failed == 3
    assert log.progress[-1].latest_error == "RuntimeError: ill"
    # Of the members, every other one fails again when it is scored on the hold-out.
    failed = [m for m in outcome.members if m.error is not None]
    assert all(m.error == "RuntimeError: ill" and m.behind for m in failed)
    assert set(outcome.exported) == {m.key for m in outcome.members if m.error is None}


def test_a_device_that_cannot_be_opened_stops_the_run_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwsearch.build import Factory

    def unreachable(self: Factory, device: str) -> Any:
        raise OSError(f"no route to {device}")

    raw = digits(training={"epochs": 1, "batch_size": 64})
    with monkeypatch.context() as patched:
        patched.setattr(Factory, "lane", unreachable)
        with pytest.raises(WorkerError, match="at least one device must come up, but cpu: OSError: no route to cpu"):
            go(tmp_path, raw, "search.trials=3")
    outcome, _ = go(tmp_path, raw, "search.trials=3")
    assert (outcome.n_trials, outcome.n_failed) == (3, 0)


def test_a_picture_of_nothing(tmp_path: Path) -> None:
    made = load_raw(digits(), source="c")
    study = Study(
        "x",
        made.space,
        objectives=made.objectives,
        devices=made.measured,
        storage=open_storage(None, tmp_path / "log"),
    )
    assert front_png(study, {"members": []}).startswith(b"\x89PNG")


# ---- bad input: one clear line, exit code 2, nothing written -------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.trails=5", "search.trails is not known (nearest: 'trials')."),
        ("search.trials=x", "search.trials must be a whole number, but got 'x'."),
        ("sparsity.choices=[]", "sparsity.choices must be a list of at least 1, but got []."),
        ("objectives.1=energy_mj@cpu", "objectives.1: energy_mj@cpu must be something that the device measures"),
        ("data={name: image_folder, path: nowhere}", "must be a folder with the files, but "),
        ("supernet.weights=nowhere.safetensors", "nowhere.safetensors"),
        ("supernet.weights=config.yaml", "config.yaml"),
        ("supernet.weights=foreign.safetensors", "foreign.safetensors"),
        ("training.batch_size=9999", "training.batch_size must be at most the 1079 examples of the train split"),
        ("storage=foo://bar", "storage must be a database that Optuna can open, but got: "),
        ("nothing", "--set must be key=value, but got 'nothing'."),
    ],
)
def test_bad_input(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, override: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, digits())
    safetensors.torch.save_file({"layer1.weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    before = sorted(tmp_path.rglob("*"))
    code, out, error = cli("run", path, "--run-dir", tmp_path / "runs" / "x", "--set", override)
    assert code == 2
    assert out == ""
    assert error.startswith("Error: ")
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_all_problems_are_listed(tmp_path: Path, cli: Cli) -> None:
    path = write(tmp_path, digits(nmae=1, export={"nets": "few"}))
    code, _, error = cli("run", path, "--run-dir", tmp_path / "x", "--set", "devices.cpu.thread=1")
    assert code == 2
    assert error.splitlines() == [
        f"Error: {path}: 3 problems:",
        "  - export.nets must be 'all' or a whole number of at least 0, but got 'few'.",
        "  - nmae is not known (nearest: 'name').",
        "  - devices.cpu.thread is not known (nearest: 'threads').",
    ]


def test_tracebacks_only_on_request(tmp_path: Path, cli: Cli) -> None:
    with pytest.raises(UserError, match="does not exist"):
        cli("--debug", "run", tmp_path / "nowhere.yaml")
    code, _, error = cli("run", tmp_path / "nowhere.yaml")
    assert (code, error) == (
        2,
        f"Error: a configuration must be a YAML file, but {tmp_path / 'nowhere.yaml'} does not exist.\n",
    )


def test_usage(cli: Cli) -> None:
    assert cli("--version")[0] == 0
    code, out, _ = cli("--help")
    assert code == 0
    for command in ("run", "front", "export", "measure", "predict", "space"):
        assert command in out
        assert cli(command, "--help")[0] == 0
    code, _, error = cli("run", "c.yaml", "--nonsense")
    assert code == 2
    assert "--nonsense" in error
    assert cli("nonsense")[0] == 2


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['hwsearch', '--help']\n"
        "from hwsearch.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'ray', 'optuna', 'sklearn', 'scipy', 'onnxruntime', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)


# ---- queries -------------------------------------------------------------------------------------------------------


def test_front(finished: Path, cli: Cli) -> None:
    code, out, _ = cli("front", finished)
    keys = [m["key"] for m in strict((finished / "front.json").read_text())["members"]]
    assert code == 0
    assert all(key in out for key in keys)
    code, out, _ = cli("front", finished, "--json")
    assert code == 0
    assert strict(out) == strict((finished / "front.json").read_text())


def test_run_json(copied: Path, cli: Cli) -> None:
    code, out, _ = cli("run", copied.parent / "config.yaml", "--run-dir", copied, "--json")
    assert code == 0
    answer = strict(out)
    assert answer["folder"] == str(copied)
    assert answer["n_trials"] == 12
    assert len(answer["members"]) > 0


def test_queries_where_there_is_no_run(tmp_path: Path, cli: Cli) -> None:
    for command in (["front"], ["export", "--key", "x"], ["predict", "--arch", "largest"]):
        code, _, error = cli(command[0], tmp_path, *command[1:])
        assert code == 2
        assert error == f"Error: a run folder must hold config.yaml, but {tmp_path} does not.\n"
    (tmp_path / "config.yaml").write_text("format_version: 1\n")
    code, _, error = cli("front", tmp_path)
    assert (code, error) == (
        2,
        f"Error: {tmp_path} must hold a validated front (front.json), but the run has not come that far.\n",
    )


def test_export_by_key_trial_and_preference(finished: Path, tmp_path: Path, cli: Cli) -> None:
    members = strict((finished / "front.json").read_text())["members"]
    some = members[-1]
    fastest = min(members, key=lambda m: m["validated"]["latency_ms@cpu"])
    accuracies = sorted(m["validated"]["accuracy"] for m in members)
    bound = accuracies[len(accuracies) // 2]
    good = [m for m in members if m["validated"]["accuracy"] >= bound]
    smallest = min(good, key=lambda m: m["validated"]["stored_bytes"])
    for how, wanted in (
        (["--key", some["key"]], some),
        (["--trial", str(some["index"])], some),
        (["--prefer", "latency_ms"], fastest),
        (["--prefer", "latency_ms@cpu"], fastest),
        (["--prefer", "stored_bytes", "--limit", f"accuracy:min={bound}"], smallest),
    ):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        code, text, error = cli("export", finished, *how, "--out", out, "--json")
        assert code == 0, error
        answer = strict(text)
        assert answer["card"]["key"] == wanted["key"]
        assert answer["folder"] == str(out / wanted["key"])
        exported = (out / wanted["key"] / "model.onnx").read_bytes()
        assert exported == (finished / "models" / wanted["key"] / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ([], "export must be told one of --key, --trial or --prefer."),
        (["--key", "x", "--trial", "1"], "export must be told one of --key, --trial or --prefer."),
        (["--key", "abc"], "only measured and validated nets are exported: the front holds ["),
        (["--trial", "999"], "but not trial 999."),
        (["--prefer", "speed"], "the metric must be one of ['accuracy', 'activation_bytes', 'latency_ms@cpu', "),
        (["--prefer", "macs", "--limit", "accuracy=3"], "--limit must be metric:min=VALUE or metric@device:max=VALUE"),
        (["--prefer", "macs", "--limit", "accuracy:min=1.5"], "must keep accuracy >= 1.5, but none of"),
    ],
)
def test_exports_that_are_refused(finished: Path, cli: Cli, how: list[str], message: str) -> None:
    code, _, error = cli("export", finished, *how)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_measure_a_file_and_a_net_of_a_run(finished: Path, tmp_path: Path, cli: Cli) -> None:
    key = strict((finished / "front.json").read_text())["members"][0]["key"]
    device = tmp_path / "small.yaml"
    device.write_text(yaml.safe_dump({"runtime": "onnxruntime", "batch": 4, "repeats": 3, "max_seconds": 0.05}))
    model = finished / "models" / key / "model.onnx"
    code, out, error = cli("measure", model, "--device", device, "--json")
    assert code == 0, error
    (row,) = strict(out)
    assert (row["device"], row["metric"], row["unit"], row["batch"]) == ("small", "latency_ms", "ms", 4)
    assert row["value"] > 0
    code, out, _ = cli("measure", f"{finished}:{key}", "--device", "cpu", "--device", "analytic", "--json")
    assert code == 0
    rows = strict(out)
    assert [r["metric"] for r in rows if r["device"] == "cpu"] == ["latency_ms"]
    # As in the run: the same batch, and values that count against the same reference.
    assert rows[0]["batch"] == 64
    reference = strict((finished / "devices/cpu.json").read_text())["reference_ms"]
    assert rows[0]["environment"]["card_reference_ms"] == reference
    costs = {r["metric"]: r["value"] for r in rows if r["device"] == "analytic"}
    assert (
        costs["stored_bytes"]
        == strict((finished / "front.json").read_text())["members"][0]["validated"]["stored_bytes"]
    )
    code, _, error = cli("measure", model, "--device", "torch")
    assert code == 2
    assert error == "Error: device torch must be given torch artifacts, but got 'onnx'.\n"
    code, out, error = cli("measure", model, "--device", "torch", "--device", device, "--device", "nothing")
    assert code == 0
    assert "small" in out
    first, second = error.splitlines()
    assert first == "torch: device torch must be given torch artifacts, but got 'onnx'."
    assert second.startswith("nothing: a device must be a YAML file or one of [")
    code, out, _ = cli("measure", model, "--device", "torch", "--device", device, "--json")
    assert [(row["device"], row["error"] is None) for row in strict(out)] == [("small", True), ("torch", False)]
    code, _, error = cli("measure", model, "--device", "torch", "--device", "simulated")
    assert code == 1
    assert error.startswith(f"Error: no device could measure {model}: device torch must be given torch artifacts")
    assert error.count("\n") == 1
    # A net of a run is exported for what a device opens.
    code, out, error = cli("measure", f"{finished}:{key}", "--device", "torch", "--device", "onnxruntime", "--json")
    assert code == 0, error
    assert [(row["device"], row["format"]) for row in strict(out)] == [("torch", "torch"), ("onnxruntime", "onnx")]
    code, out, _ = cli("measure", model, "--device", device, "--batch", "2")
    assert code == 0
    assert "latency_ms" in out


@pytest.mark.parametrize(
    ("target", "device", "message"),
    [
        ("nowhere.onnx", "onnxruntime", "a model must be an ONNX file or RUN:KEY, but nowhere.onnx does not exist."),
        ("model", "onnxruntime", "a model must be MODEL.onnx or RUN:KEY, but got 'model'."),
        ("{odd}", "onnxruntime", "odd.onnx is not ONNX."),
        ("{run}:abc", "cpu", "the net must be on the front (["),
        ("{run}:{key}", "gpu", "a device must be a YAML file or one of ['analytic', "),
        ("{run}:{key}", "nowhere.yaml", "a device must be a YAML file or a known name, but nowhere.yaml does not"),
        ("{run}:{key}", "{bad}", "thread is not known (nearest: 'threads')."),
    ],
)
def test_measurings_that_are_refused(
    finished: Path, tmp_path: Path, cli: Cli, target: str, device: str, message: str
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("runtime: onnxruntime\nthread: 1\n")
    key = strict((finished / "front.json").read_text())["members"][0]["key"]
    (tmp_path / "odd.onnx").write_bytes(b"odd")
    names = {"run": finished, "key": key, "bad": bad, "odd": tmp_path / "odd.onnx"}
    code, _, error = cli("measure", target.format(**names), "--device", device.format(**names))
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_predict_exact_and_predicted(finished: Path, tmp_path: Path, cli: Cli) -> None:
    member = strict((finished / "front.json").read_text())["members"][0]
    arch = tmp_path / "arch.json"
    arch.write_text(json.dumps(member["architecture"]))
    given = ["--arch", "largest", "--arch", member["key"], "--arch", arch, "--arch", json.dumps(member["architecture"])]
    code, out, error = cli("predict", finished, *given, "--json")
    assert code == 0, error
    rows = strict(out)
    assert len(rows) == 4 * 3
    assert [r["kind"] for r in rows[:3]] == ["predicted", "predicted", "exact"]
    assert rows[3:6] == rows[6:9] == rows[9:12]
    assert rows[5]["mean"] == member["metrics"]["stored_bytes"]
    assert rows[5]["std"] == 0.0
    assert rows[0]["std"] > 0
    assert rows[1]["unit"] == "ms"
    code, out, _ = cli(
        "predict", finished, "--arch", "smallest", "--metric", "macs", "--metric", "parameters", "--json"
    )
    assert [(r["metric"], r["kind"]) for r in strict(out)] == [("macs", "exact"), ("parameters", "exact")]
    code, out, _ = cli("predict", finished, "--arch", "smallest")
    assert code == 0
    assert "latency_ms@cpu" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--arch", '{"layer1.nodes": 8}'],
            "--arch: an architecture must give every active gene, but 'layer2",
        ),
        (
            ["--arch", '{"layer1.node": 8}'],
            "but got 'layer1.node' (nearest: 'layer1.nodes')",
        ),
        (["--arch", '{"layer1.nodes": 9}'], "gene 'layer1.nodes' must be one of [8, 16, 32], but got 9."),
        (["--arch", "[1]"], "--arch must be a JSON object, but got list."),
        (["--arch", "big"], "--arch must be JSON such as"),
        (["--arch", "0123456789ab"], "an architecture's key must be on the front of the run, but got '0123456789ab'."),
        (["--arch", "largest", "--metric", "speed"], "the metric must be one of ["),
    ],
)
def test_predictions_that_are_refused(finished: Path, cli: Cli, arguments: list[str], message: str) -> None:
    code, _, error = cli("predict", finished, *arguments)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_predict_where_too_little_was_measured(tmp_path: Path, cli: Cli) -> None:
    go(tmp_path, digits(objectives=["latency_ms@cpu"], training=None), "search.trials=3")
    code, _, error = cli("predict", tmp_path / "run", "--arch", "largest")
    assert code == 2
    assert "must hold a predictor of latency_ms@cpu, but it does not" in error
    assert "fewer than 10 of its trials" in error


def test_space(tmp_path: Path, cli: Cli) -> None:
    path = write(tmp_path, digits())
    code, out, _ = cli("space", path, "--json")
    assert code == 0
    answer = strict(out)
    assert answer["size"] == 81
    assert [g["name"] for g in answer["genes"]] == [
        "layer1.nodes",
        "layer2.nodes",
        "layer1.sparsity",
        "layer2.sparsity",
    ]
    assert answer["smallest"]["macs"] < answer["largest"]["macs"]
    code, out, _ = cli("space", path, "--set", "supernet.params.hidden=[[8, 16]]")
    assert code == 0
    assert "mlp: 2 genes, 6 architectures" in out
    assert "unstructured-0.5" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml"]


def test_a_space_larger_than_floating_point(tmp_path: Path, cli: Cli) -> None:
    raw = costs_only()
    raw["supernet"]["params"]["hidden"] = [list(range(1, 101))] * 130
    code, out, error = cli("space", write(tmp_path, raw))
    assert code == 0, error
    assert f"260 genes, {Decimal(300**130):.4g} architectures" in out
    code, out, _ = cli("space", tmp_path / "config.yaml", "--json")
    assert strict(out)["size"] == 300**130


def test_queries_do_not_depend_on_the_working_directory(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths in a configuration count from where the run was started, also later and elsewhere."""
    (tmp_path / "w").mkdir()
    supernet = load_raw(costs_only(), source="c").supernet()
    tensors = {n: t.detach().clone() for n, t in supernet.tensors().items()}
    safetensors.torch.save_file(tensors, tmp_path / "w/w.safetensors")
    raw = costs_only()
    set_path(raw, "supernet.weights=w/w.safetensors")
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, raw)
    assert cli("run", path, "--run-dir", "run")[0] == 0
    monkeypatch.chdir(tmp_path / "w")
    assert cli("front", tmp_path / "run")[0] == 0
    assert cli("export", tmp_path / "run", "--prefer", "macs")[0] == 0
    assert cli("run", tmp_path / "run/config.yaml", "--run-dir", tmp_path / "run")[0] == 0


def test_the_stored_configuration_continues_the_run(copied: Path) -> None:
    outcome = run(copied / "config.yaml", run_dir=copied, observer=Log())
    assert outcome.n_trials == 12
    study = Study(
        "tiny",
        load_raw(digits(), source="c").space,
        objectives=load_raw(digits(), source="c").objectives,
        devices=("cpu",),
        storage=open_storage(None, copied / "study.log"),
    )
    assert [t.state for t in study.trials] == [State.FINISHED] * 12

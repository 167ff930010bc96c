"""What a run tells to TensorBoard, MLflow and Optuna's dashboard."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hwsearch import build
from hwsearch.commands.run import run
from hwsearch.errors import ConfigError
from hwsearch.results import Evaluation, SearchProgress
from hwsearch.sinks import Recorder
from hwsearch.study import Study, open_storage
from tests.hwsearch.runs import Silent, costs_only, write


class Told:
    """Keeps what it is told; fails at a step, if asked to."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.values: list[tuple[int, dict[str, float]]] = []
        self.closed, self._fails_at = False, fails_at

    @classmethod
    def require(cls) -> None:
        pass

    def log(self, values: Mapping[str, float], step: int) -> None:
        if step == self._fails_at:
            raise OSError("the server\nis gone")
        self.values.append((step, dict(values)))

    def close(self) -> None:
        self.closed = True


def progress(done: int, **changes: Any) -> SearchProgress:
    given: dict[str, Any] = {"n_failed": 1, "n_running": 0, "n_front": 2, "elapsed_s": 1.0, "eta_s": None}
    return SearchProgress(n_trials=9, n_done=done, **{**given, **changes})


def test_every_trial_is_told_once_and_a_sink_that_fails_is_left_out(tmp_path: Path) -> None:
    plan = build.load_raw(costs_only(limits=[]), source="test")
    study = Study("costs", plan.space, objectives=plan.objectives, storage=open_storage(None, tmp_path / "study.log"))
    rows = plan.space.enumerate()[:4]
    study.start(rows)
    study.record(0, Evaluation({"macs": 1.0, "stored_bytes": 2.0}, 0.1))
    good, bad, notes = Told(), Told(fails_at=2), []
    recorder = Recorder(study, [good, bad], note=notes.append)
    recorder.search(progress(1))
    assert good.values == []  # known before the recorder was made: a run that is continued tells nothing twice
    study.record(1, Evaluation({"macs": 3.0, "stored_bytes": 4.0}, 0.1))
    recorder.search(progress(2, hypervolume=0.25))
    recorder.search(progress(2, hypervolume=0.25))
    assert good.values == [
        (1, {"trial/macs": 3.0, "trial/stored_bytes": 4.0}),
        (2, {"front/size": 2, "trials/failed": 1, "front/hypervolume": 0.25}),
    ]
    assert notes == ["Told is left out from now on: the server is gone"]
    study.record(2, Evaluation({}, 0.1, error="ill"))
    recorder.search(progress(3))
    assert good.values[-1] == (3, {"front/size": 2, "trials/failed": 1})  # a failed trial has no values
    recorder.close()
    assert good.closed and not bad.closed


def test_a_sink_must_be_known_and_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"logging must be one of \['mlflow', 'tensorboard'\], but got 'tensorbord'"):
        build.load_raw(costs_only(logging=["tensorbord"]), source="test")
    monkeypatch.setattr("hwsearch.sinks.find_spec", lambda name: None)
    for name, library in (("tensorboard", "tensorboardX"), ("mlflow", "MLflow")):
        with pytest.raises(ConfigError, match=rf"{library}, which is not installed: pip install 'hwsearch\[{name}\]'"):
            build.load_raw(costs_only(logging=[name]), source="test")


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Returns tag -> step -> value of the event files of a folder (records of length, checksum, event, checksum)."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, dict[int, float]] = {}
    for file in folder.glob("events.*"):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
            at += 16 + length
    return found


def test_tensorboard_files_hold_the_trials_of_a_run_also_of_one_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = pytest.importorskip("tensorboardX.event_file_writer")
    clock = SimpleNamespace(time=lambda: 1.75e9)  # both parts within one second, which names the files
    monkeypatch.setattr(writer, "time", clock)
    folder, raw = tmp_path / "run", costs_only(logging=["tensorboard"])
    run(write(tmp_path, {**raw, "search": {**raw["search"], "trials": 10}}), run_dir=folder, observer=Silent())
    run(write(tmp_path, {**raw, "search": {**raw["search"], "trials": 16}}), run_dir=folder, observer=Silent())
    found = scalars(folder / "tensorboard")
    assert sorted(found["trial/macs"]) == list(range(16))
    assert all(v > 0 for v in found["trial/stored_bytes"].values())
    members = json.loads((folder / "front.json").read_text())["members"]
    assert found["front/size"][16] == len(members)
    assert 0.0 < max(found["front/hypervolume"].values()) <= 1.0


def test_mlflow_holds_the_trials_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = tmp_path / "run"
    raw = costs_only(logging=["mlflow"])
    run(write(tmp_path, {**raw, "search": {**raw["search"], "trials": 8}}), run_dir=folder, observer=Silent())
    client = mlflow.MlflowClient()
    number = (folder / "mlflow.run").read_text()
    steps = [m.step for m in client.get_metric_history(number, "trial/macs")]
    assert steps == list(range(8)) and client.get_run(number).info.status == "FINISHED"


@pytest.mark.skipif(importlib.util.find_spec("optuna_dashboard") is None, reason="needs optuna-dashboard")
def test_the_dashboard_shows_a_run(tmp_path: Path) -> None:
    from optuna_dashboard import wsgi

    folder = tmp_path / "run"
    raw = costs_only(objectives=["nonzeros", "latency_ms@one"], devices={"one": {"runtime": "simulated"}}, limits=[])
    run(write(tmp_path, {**raw, "search": {**raw["search"], "trials": 10}}), run_dir=folder, observer=Silent())
    app = wsgi(open_storage(None, folder / "study.log"))

    def get(path: str) -> Any:
        status: list[str] = []
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "SERVER_NAME": "x", "SERVER_PORT": "80"}
        environ |= {"wsgi.url_scheme": "http", "QUERY_STRING": ""}
        body = b"".join(app(environ, lambda code, headers, *_: status.append(code)))
        assert status[0].startswith("200"), (path, status, body[:200])
        return json.loads(body)

    studies = {s["study_name"]: s["study_id"] for s in get("/api/studies")["study_summaries"]}
    assert set(studies) == {"costs@accuracy", "costs@one"}
    shown = get(f"/api/studies/{studies['costs@one']}")
    assert "latency_ms@one" in json.dumps(shown), sorted(shown)  # values have names, and no more is asked of a view
    assert [t["state"] for t in shown["trials"]] == ["Complete"] * 10

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest

from hwsearch.build import load_raw
from hwsearch.commands.run import run
from hwsearch.results import SearchProgress, State
from hwsearch.study import Study, open_storage
from tests.hwsearch.runs import costs_only, digits, write

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 80


def config() -> dict[str, Any]:
    """Exact costs, one of them by way of a device, so that a trial has two records."""
    return costs_only(
        objectives=["macs", "stored_bytes@ideal", "activation_bytes"],
        devices={"ideal": {"runtime": "analytic"}},
        search={"engine": "nsga2", "trials": TRIALS, "options": {"population": 20}},
    )


class Silent:
    """Sees a run and says nothing; may be told to interrupt it."""

    def __init__(self, at: Callable[[str, int], bool] = lambda what, n: False) -> None:
        self.at, self.n, self.notes = at, 0, list[str]()

    def _count(self, what: str) -> None:
        self.n += 1
        if self.at(what, self.n):
            raise KeyboardInterrupt

    def phase(self, name: str) -> None:
        self._count(name)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def training(self, progress: object) -> None:
        self._count("training")

    def search(self, progress: SearchProgress) -> None:
        self._count("trial")

    def validation(self, done: int, total: int) -> None:
        self._count("member")


def records(journal: Path) -> dict[str, list[tuple[int, str, list[float] | None]]]:
    """Returns (proposal index, genotype, values) of every record, per study, in the order of writing."""
    storage = open_storage(None, journal)
    return {
        study.study_name: [
            (t.user_attrs["proposal_index"], t.user_attrs["genotype"], t.values)
            for t in optuna.load_study(study_name=study.study_name, storage=storage).trials
        ]
        for study in optuna.get_all_study_summaries(storage)
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(write(folder, config()), run_dir=folder / "run", observer=Silent())
    return folder / "run"


def start(path: Path, folder: Path, hash_seed: int, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(hash_seed)}
    return subprocess.Popen(
        [sys.executable, "-m", "hwsearch", "run", str(path), "--run-dir", str(folder), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell in the background ignores it
    )


def wait_for_lines(
    driver: subprocess.Popen[str], journal: Path, n: int, limit_s: float = 120.0, *, with_text: bytes = b""
) -> None:
    until = time.monotonic() + limit_s
    while not journal.exists() or (text := journal.read_bytes()).count(b"\n") < n or with_text not in text:
        assert time.monotonic() < until
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.001)


def test_a_driver_killed_at_any_moment_loses_and_repeats_nothing(tmp_path: Path, uninterrupted: Path) -> None:
    path, folder = write(tmp_path, config()), tmp_path / "run"
    journal = folder / "study.log"
    kept: list[bytes] = []
    pids = []
    for n, lines in enumerate((3, 50, 120)):
        driver = start(path, folder, n + 1)
        wait_for_lines(driver, journal, lines)
        os.kill(driver.pid, signal.SIGKILL)
        out, _ = driver.communicate()
        assert driver.returncode == -signal.SIGKILL
        if pids:
            assert f"continuing after process {pids[-1]}, which ended without finishing" in out
        pids.append(driver.pid)
        content = journal.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        assert all(whole.startswith(before) for before in kept)
        kept.append(whole)
        # What a kill in the middle of an append leaves: a part of a line, and Optuna's lock.
        record = whole.splitlines(keepends=True)[-1]
        journal.write_bytes(whole + record[: len(record) * (n + 1) // 4])
        (folder / "study.log.lock").unlink(missing_ok=True)
        (folder / "study.log.lock").symlink_to(journal)

    driver = start(path, folder, 4)
    out, _ = driver.communicate(timeout=120)
    assert driver.returncode == 0, out
    assert f"continuing after process {pids[-1]}, which ended without finishing" in out
    assert re.search(r"cut \d+ bytes of a torn last record from study\.log", out)
    final = journal.read_bytes()
    assert all(final.startswith(before) for before in kept)
    found, expected = records(journal), records(uninterrupted / "study.log")
    assert found == expected
    assert [index for index, _, _ in found["costs@accuracy"]] == list(range(TRIALS))
    assert [index for index, _, _ in found["costs@ideal"]] == list(range(TRIALS))
    for name in ("front.csv", "front.json"):
        assert (folder / name).read_bytes() == (uninterrupted / name).read_bytes()


def test_an_interrupt_anywhere_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """In this process, so that the moment can be chosen: in the search, in the validation, before the export."""
    raw = config()
    raw["search"] = {**raw["search"], "trials": 5}
    path = write(tmp_path, raw)
    whole = Silent()
    run(path, run_dir=tmp_path / "whole", observer=whole)
    for nth in (1, 2, 5, whole.n - 1, whole.n):
        folder = tmp_path / f"run{nth}"
        with pytest.raises(KeyboardInterrupt):
            run(path, run_dir=folder, observer=Silent(lambda what, n, nth=nth: n == nth))
        run(path, run_dir=folder, observer=Silent())
        assert records(folder / "study.log") == records(tmp_path / "whole/study.log")
        assert (folder / "front.json").read_bytes() == (tmp_path / "whole/front.json").read_bytes()


def test_what_was_evaluated_and_not_measured_is_measured(tmp_path: Path) -> None:
    """A kill between the two records of a trial; its artifact is there, or gone, or damaged."""
    raw = config()
    raw["search"] = {**raw["search"], "trials": 6}
    path, folder = write(tmp_path, raw), tmp_path / "run"
    run(path, run_dir=folder, observer=Silent())
    expected = records(folder / "study.log")
    lines = (folder / "study.log").read_bytes().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if b"stored_bytes@ideal" in line and b"genotype" in line)
    assert last == len(lines) - 1
    for damage in ("none", "gone", "damaged"):
        (folder / "study.log").write_bytes(b"".join(lines[:last]))
        for name in ("front.json", "front.csv"):
            (folder / name).unlink()
        if damage == "gone":
            shutil.rmtree(folder / "artifacts")
        elif damage == "damaged":
            for content in (folder / "artifacts").glob("*/costs.json"):
                content.write_bytes(b"{}")
        run(path, run_dir=folder, observer=Silent())
        assert records(folder / "study.log") == expected


def test_a_larger_budget_goes_on_like_one_run(tmp_path: Path, uninterrupted: Path) -> None:
    path, folder = write(tmp_path, config()), tmp_path / "run"
    for trials in (2, 20, TRIALS):  # the first is the smallest network, which breaks a limit
        outcome = run(path, overrides=[f"search.trials={trials}"], run_dir=folder, observer=Silent())
        assert outcome.n_trials == trials
    assert records(folder / "study.log") == records(uninterrupted / "study.log")
    assert (folder / "front.json").read_bytes() == (uninterrupted / "front.json").read_bytes()
    smaller = run(path, overrides=["search.trials=5"], run_dir=folder, observer=Silent())
    assert smaller.n_trials == TRIALS


def test_an_added_device_measures_earlier_trials(tmp_path: Path) -> None:
    raw = config()
    raw["search"] = {**raw["search"], "trials": 12}
    run(write(tmp_path, raw), run_dir=tmp_path / "run", observer=Silent())
    before = records(tmp_path / "run/study.log")
    raw["devices"] = {**raw["devices"], "far": {"runtime": "simulated"}}
    raw["objectives"] = ["macs", "latency_ms@far", "stored_bytes@ideal", "activation_bytes"]
    outcome = run(write(tmp_path, raw), run_dir=tmp_path / "run", observer=Silent())
    after = records(tmp_path / "run/study.log")
    assert after["costs@accuracy"] == before["costs@accuracy"]
    assert after["costs@ideal"] == before["costs@ideal"]
    assert sorted(index for index, _, _ in after["costs@far"]) == list(range(12))
    assert all("latency_ms@far" in m.validated for m in outcome.members)


@pytest.mark.parametrize("kind", ["serial", pytest.param("ray", marks=pytest.mark.ray)])
def test_control_c(tmp_path: Path, kind: str) -> None:
    """As a terminal sends it: to the driver and to all of its children."""
    raw = digits(training={"epochs": 1, "batch_size": 64}, search={"engine": "random", "trials": 80})
    raw["executor"] = {"kind": kind} if kind == "serial" else {"kind": kind, "workers": 1, "lane_batch": 2}
    path, folder = write(tmp_path, raw), tmp_path / "run"
    driver = start(path, folder, 0)
    wait_for_lines(driver, folder / "study.log", 12, with_text=b"measured@")
    children = psutil.Process(driver.pid).children(recursive=True)
    os.killpg(driver.pid, signal.SIGINT)
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, out
    assert out.rstrip().endswith("interrupted; the same command continues")
    assert "Traceback" not in out
    assert (folder / "lock").read_text() == ""
    assert not (folder / "ray.pids").exists()
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert json.loads((folder / "study.log").read_bytes().splitlines()[-1])
    made = load_raw(raw, source="c")
    tracked: dict[str, Any] = {"objectives": made.objectives, "limits": made.limits, "devices": made.measured}
    study = Study("tiny", made.space, **tracked, storage=open_storage(None, folder / "study.log"))
    assert any(t.state == State.FINISHED for t in study.trials)
    more = len(study.trials) + 2
    overrides = [f"search.trials={more}", "executor.kind=serial"]
    outcome = run(path, overrides=overrides, run_dir=folder, observer=Silent())
    assert (outcome.n_trials, outcome.n_failed) == (more, 0)

"""submit, logs, attach, stop against a job server that the tests play; runs list, show, clean on folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from hwsearch.cli import main
from hwsearch.distribution import submission
from hwsearch.errors import UserError
from tests.hwsearch.runs import costs_only

ROOT = Path(__file__).resolve().parents[3]


class Server:
    """Stands for Ray's job client."""

    def __init__(self, address: str) -> None:
        if "nobody" in address:
            raise ConnectionError(f"Failed to connect to Ray at address: {address}.")
        self.status = "RUNNING"
        self.submitted: dict[str, Any] = {}
        self.files: dict[str, str] = {}

    def submit_job(self, **options: Any) -> str:
        folder = Path(options["runtime_env"]["working_dir"])
        assert (folder / "hwsearch" / "cli" / "__init__.py").is_file()
        assert (folder / "predictors").is_dir()
        assert (folder / "search_spaces").is_dir()
        assert not list(folder.rglob("__pycache__"))
        self.files = {"config.yaml": (folder / "config.yaml").read_text()}
        self.submitted = options
        return str(options["submission_id"])

    def get_job_info(self, job: str) -> Any:
        if job != self.submitted.get("submission_id", "known"):
            raise RuntimeError("Request failed with status code 404")
        return SimpleNamespace(
            status=SimpleNamespace(value=self.status), message="all\nwell", metadata=self.submitted.get("metadata", {})
        )

    def get_job_logs(self, job: str) -> str:
        return "two\nlines\n"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for text in ("two\n", "lines\n"):
            yield text
        self.status = "FAILED"

    def stop_job(self, job: str) -> bool:
        self.status = "STOPPED"
        return True


def raising(error: Exception) -> Callable[..., str]:
    def fail(**options: Any) -> str:
        raise error

    return fail


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    pytest.importorskip("ray.job_submission")
    import ray.job_submission

    made = Server("http://head:8265")

    def client(address: str) -> Server:
        Server(address)
        return made

    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", client)
    return made


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["hwsearch", *map(str, words)])
    try:
        main()
    except SystemExit as error:
        return int(error.code or 0)
    return 0


AT = ("--address", "http://head:8265")


def test_a_job_from_submission_to_its_end(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(costs_only(name="far", executor={"kind": "ray"})))
    assert call(monkeypatch, "submit", config, *AT, "--set", "search.trials=7", "--pip", "torch", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["job"].startswith("far-")
    assert answer["run_dir"] == "~/hwsearch-runs/far"
    assert server.submitted["entrypoint"] == "python -m hwsearch run config.yaml --run-dir ~/hwsearch-runs/far"
    assert server.submitted["runtime_env"]["pip"] == ["torch"]
    sent = yaml.safe_load(server.files["config.yaml"])
    assert sent["search"]["trials"] == 7
    assert sent["executor"]["address"] == "auto"
    job = answer["job"]
    assert call(monkeypatch, "logs", job, *AT) == 0
    assert capsys.readouterr().out == "two\nlines\n"
    assert call(monkeypatch, "attach", job, *AT) == 1  # it failed
    assert capsys.readouterr().err == f"{job}: failed; ~/hwsearch-runs/far\n"
    assert call(monkeypatch, "stop", job, *AT) == 0
    assert capsys.readouterr().out == f"{job} had ended already\n"
    server.status = "RUNNING"
    assert call(monkeypatch, "stop", job, *AT) == 0
    assert capsys.readouterr().out == f"{job} was asked to end\n"


def test_run_folders_with_strange_names_are_one_word(server: Server) -> None:
    submission.Jobs("http://head:8265").submit({"name": "x"}, run_dir="/data/my runs/x;ls")
    assert server.submitted["entrypoint"].endswith("--run-dir '/data/my runs/x;ls'")


def test_mistakes_are_one_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "logs", "strange", *AT) == 2
    assert capsys.readouterr().err == "Error: JOB must be a job of this cluster, but there is no 'strange'.\n"
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({**costs_only(), "strange": 1}))
    assert call(monkeypatch, "submit", config, *AT) == 2
    assert server.submitted == {}
    assert "strange" in capsys.readouterr().err
    config.write_text(yaml.safe_dump(costs_only()))
    assert call(monkeypatch, "submit", config, "--address", "http://nobody:8265") == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: --address must be the dashboard of a Ray cluster, but 'http://nobody:8265'")
    assert error.count("\n") == 1
    for broken in (ConnectionError("Remote end closed connection"), RuntimeError("Request failed with status 500")):
        monkeypatch.setattr(server, "submit_job", raising(broken))
        assert call(monkeypatch, "submit", config, "--address", "http://head:8265") == 2
        assert capsys.readouterr().err == (
            f"Error: --address must be a cluster that takes the job, but it did not: {broken}\n"
        )
    assert call(monkeypatch, "stop", tmp_path) == 2
    assert capsys.readouterr().err == (
        f"Error: RUN must be a folder in which a run is at work, but in {tmp_path} nobody is.\n"
    )


HOLD = """
import sys, time
from pathlib import Path
from hwsearch.runfolder import RunLock
with RunLock(Path(sys.argv[1])):
    (Path(sys.argv[1]) / "begun").touch()
    time.sleep(60)
"""


def test_stop_ends_the_driver_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], env=environment)
    try:
        until = time.monotonic() + 30
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        assert call(monkeypatch, "stop", tmp_path) == 0
        assert capsys.readouterr().out == f"process {driver.pid} was asked to end\n"
        assert driver.wait(30) == -signal.SIGTERM
    finally:
        driver.kill()


def run_folder(path: Path, *, complete: bool) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump({"format_version": 1, "name": path.name, "search": {"trials": 5}}))
    for name in ("kept", "gone"):
        (path / "artifacts" / name).mkdir(parents=True)
        (path / "artifacts" / name / "model.onnx").write_bytes(b"x" * 100)
    (path / "training").mkdir()
    (path / "training" / "checkpoint.safetensors").write_bytes(b"x" * 1000)
    if complete:
        (path / "front.json").write_text(json.dumps({"members": [{"artifacts": {"cpu": "kept"}}]}))
    return path


def test_runs_are_listed_shown_and_cleaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done, begun = run_folder(tmp_path / "a", complete=True), run_folder(tmp_path / "b", complete=False)
    assert call(monkeypatch, "runs", "list", tmp_path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(run["name"], run["state"], run["front"]) for run in found] == [("a", "complete", 1), ("b", "begun", 0)]
    assert call(monkeypatch, "runs", "show", done) == 0
    assert "training: 1 kB" in capsys.readouterr().out
    assert call(monkeypatch, "runs", "clean", done, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == 1100
    assert (done / "artifacts" / "gone").is_dir()
    assert call(monkeypatch, "runs", "clean", done) == 0
    assert (done / "artifacts" / "kept" / "model.onnx").is_file()
    assert not (done / "artifacts" / "gone").exists()
    assert not (done / "training" / "checkpoint.safetensors").exists()
    capsys.readouterr()
    assert call(monkeypatch, "runs", "clean", begun) == 2
    assert "must have a validated front to be cleaned" in capsys.readouterr().err
    assert (begun / "training" / "checkpoint.safetensors").exists()
    assert call(monkeypatch, "runs", "list", tmp_path / "nowhere") == 2
    assert capsys.readouterr().err == f"Error: ROOT must be a folder, but {tmp_path / 'nowhere'} is none.\n"


@pytest.mark.parametrize("name", ["on_prem.yaml", "aws.yaml", "kuberay.yaml"])
def test_examples_of_clusters_are_yaml(name: str) -> None:
    content = yaml.safe_load((ROOT / "configs" / "cluster" / name).read_text())
    assert content.get("cluster_name", content.get("metadata", {}).get("name")) == "hwsearch"


def test_the_example_for_slurm_is_a_script() -> None:
    subprocess.run(["bash", "-n", str(ROOT / "configs" / "cluster" / "slurm.sh")], check=True)


def test_without_the_job_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.job_submission", None)
    with pytest.raises(
        UserError, match=r"needs Ray's job client, which is not installed: pip install 'hwsearch\[cluster\]'"
    ):
        submission.Jobs("http://head:8265")

"""submit, status, logs, attach and stop against a real Ray with its job server, token and metrics endpoint."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.hwsearch.runs import costs_only, write

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "c0ffee" * 10 + "abcd"
pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Head(NamedTuple):
    """A running head: address of its dashboard, of its metrics, and the environment of a client."""

    address: str
    metrics: str
    environment: dict[str, str]


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for made in sockets:
        made.bind(("127.0.0.1", 0))
    ports = [made.getsockname()[1] for made in sockets]
    for made in sockets:
        made.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    pytest.importorskip("ray.job_submission")
    gcs, dashboard, metrics, client, agent, grpc = free_ports(6)
    scripts = Path(sys.executable).parent
    folder = tempfile.mkdtemp(prefix="r")  # sockets' names are short
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_metrics_report_interval_ms": "1000",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("PYTHONPATH", None)  # the job brings the package
    words = (
        f"start --head --block --num-cpus=2 --disable-usage-stats --port={gcs} --dashboard-port={dashboard} "
        f"--metrics-export-port={metrics} --ray-client-server-port={client} --dashboard-agent-listen-port={agent} "
        f"--dashboard-agent-grpc-port={grpc} --object-store-memory=100000000 --temp-dir={folder}"
    )
    with Path(folder, "start.log").open("w") as log:
        ray = subprocess.Popen([scripts / "ray", *words.split()], env=environment, stdout=log, stderr=log)
    found = Head(
        f"http://127.0.0.1:{dashboard}", f"http://127.0.0.1:{metrics}/metrics", {**environment, "PYTHONPATH": str(ROOT)}
    )
    try:
        wait_for(lambda: answers(found), 180)
        yield found
    finally:
        ray.send_signal(signal.SIGTERM)
        ray.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def answers(head: Head) -> bool:
    request = urllib.request.Request(f"{head.address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        return bool(urllib.request.urlopen(request, timeout=5).status == 200)
    except OSError:
        return False


def wait_for(true: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.5)


def call(head: Head, *words: object, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hwsearch", *map(str, words)],
        env={**head.environment, "RAY_AUTH_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=300,
    )


def submit(head: Head, folder: Path, name: str, trials: int) -> str:
    raw = costs_only(
        name=name,
        executor={"kind": "ray", "workers": 1},
        search={"engine": "nsga2", "trials": trials, "options": {"population": 8}},
    )
    done = call(head, "submit", write(folder, raw), "--address", head.address, "--run-dir", folder / f"{name} run")
    assert done.returncode == 0, done.stderr
    return done.stdout.partition(":")[0]


def test_a_job_runs_to_its_end_and_its_numbers_are_seen(head: Head, tmp_path: Path) -> None:
    job = submit(head, tmp_path, "whole", 1200)
    seen: dict[str, float] = {}

    def read() -> bool:
        text = urllib.request.urlopen(head.metrics, timeout=10).read().decode()
        for name, tags, value in re.findall(r"^ray_hwsearch_(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
            if 'run="whole"' in tags.replace("Run", "run"):
                seen[name] = float(value)
        return "trials_done_total" in seen or "trials_done" in seen

    wait_for(read, 180)
    attached = call(head, "attach", job, "--address", head.address)
    assert attached.returncode == 0, attached.stdout + attached.stderr
    assert f"{job}: succeeded" in attached.stderr
    assert call(head, "logs", job, "--address", head.address).stdout == attached.stdout
    assert (tmp_path / "whole run" / "front.json").is_file()
    names = {name.removesuffix("_total") for name in seen}
    assert names >= {"trials_done", "trials_in_flight", "engine_seconds", "workers", "worker_idle_share"}, seen
    assert 0 <= seen["worker_idle_share"] <= 1
    stopped = call(head, "stop", job, "--address", head.address)
    assert stopped.stdout == f"{job} had ended already\n"


def test_a_job_is_stopped_and_the_same_submission_continues(head: Head, tmp_path: Path) -> None:
    folder = tmp_path / "long run"
    job = submit(head, tmp_path, "long", 1296)
    wait_for(lambda: (folder / "study.log").is_file() and (folder / "study.log").stat().st_size > 2000, 180)
    stopped = call(head, "stop", job, "--address", head.address)
    assert stopped.stdout == f"{job} was asked to end\n"
    wait_for(lambda: not (folder / "lock").read_text(), 60)
    status = subprocess.run(
        [sys.executable, "-m", "hwsearch", "status", str(folder)], env=head.environment, capture_output=True, text=True
    )
    assert status.returncode == 0, status.stderr
    again = submit(head, tmp_path, "long", 60)
    assert again != job
    attached = call(head, "attach", again, "--address", head.address)
    assert attached.returncode == 0, attached.stdout + attached.stderr
    assert "continuing with" in attached.stdout


def test_a_wrong_token_is_one_line(head: Head) -> None:
    done = call(head, "logs", "some-job", "--address", head.address, token="0" * 64)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: --address must be the dashboard of a Ray cluster, but ")
    assert done.stderr.count("\n") == 1

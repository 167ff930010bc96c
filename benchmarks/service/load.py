"""Latency of the service under a fixed rate of single predictions, and the time of one large request.

    python benchmarks/service/load.py [--rate 200] [--seconds 15] [--replicas 1] [--in-process]

Makes two ridge predictors of an OFA-like space (45 genes) on made-up values, starts `hwsearch serve` on the loopback
address and asks it over a few kept connections. The rate is open: a request's latency counts from when it was due, so
that a service that falls behind cannot hide it. The client takes part of the same cores. Never more than `--rate`
requests a second, `--seconds` long, and nothing leaves this machine.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from predictors.files import Card, save
from predictors.ridge import Ridge
from predictors.training_range import NOTE, TrainingRange
from search_spaces.genes import Condition, Gene
from search_spaces.space import SearchSpace


def space() -> SearchSpace:
    genes = []
    for stage in range(5):
        genes.append(Gene(f"stage{stage}.depth", (2, 3, 4)))
        for block in range(4):
            when = (Condition(f"stage{stage}.depth", tuple(d for d in (2, 3, 4) if d > block)),) if block > 1 else ()
            genes.append(Gene(f"stage{stage}.block{block}.kernel", (3, 5, 7), when))
            genes.append(Gene(f"stage{stage}.block{block}.expand", (3, 4, 6), when))
    return SearchSpace(genes)


def predictor_files(folder: Path) -> list[Path]:
    the_space, rng = space(), np.random.default_rng(0)
    rows = the_space.sample(300, rng)
    weights = rng.random(the_space.n_genes)
    files = []
    for device, scale in (("cpu", 1.0), ("phone", 4.0)):
        values = scale * (5 + rows @ weights) * (1 + 0.01 * rng.standard_normal(len(rows)))
        model = Ridge(the_space).fit(rows, values)
        card = Card("latency_ms", "ms", device=device, notes={NOTE: TrainingRange.of(the_space, rows).to_dict()})
        files.append(folder / f"{device}.safetensors")
        save(model, files[-1], card=card)
    return files


def post(connection: http.client.HTTPConnection, body: bytes) -> int:
    connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def at_rate(port: int, bodies: list[bytes], rate: float, seconds: float, connections: int) -> dict[str, float]:
    """Asks `rate` times a second; returns milliseconds from when requests were due to their answers."""
    total = int(rate * seconds)
    late: list[float] = [0.0] * total
    failures = [0]
    ticket, lock = [0], threading.Lock()
    start = time.perf_counter() + 0.2

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while True:
            with lock:
                i = ticket[0]
                ticket[0] += 1
            if i >= total:
                return
            due = start + i / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            try:
                failures[0] += post(connection, bodies[i % len(bodies)]) != 200
            except (OSError, http.client.HTTPException):
                failures[0] += 1
                connection.close()
            late[i] = time.perf_counter() - due

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    p50, p95, p99 = (1e3 * float(q) for q in np.quantile(late, [0.5, 0.95, 0.99]))
    return {"requests": total, "failures": failures[0], "per_second": total / took, "p50": p50, "p95": p95, "p99": p99}


def cpu_seconds(server: int) -> dict[str, float]:
    """Returns CPU time so far of the service's processes by role; unlike latency, other work hardly changes it."""
    found = {"proxy": 0.0, "replicas": 0.0, "rest of Ray": 0.0}
    for child in psutil.Process(server).children(recursive=True):
        try:
            line, times = " ".join(child.cmdline()), child.cpu_times()
        except psutil.Error:
            continue
        role = "proxy" if "ProxyActor" in line else "replicas" if "ServeReplica" in line else "rest of Ray"
        found[role] += times.user + times.system
    return found


def large(port: int, rows: np.ndarray, repeats: int) -> dict[str, float]:
    the_space = space()
    mappings = json.dumps({"architectures": [a.to_dict() for a in the_space.architectures(rows)]}).encode()
    indices = json.dumps({"architectures": rows.tolist()}).encode()
    found = {}
    for name, body in (("mappings", mappings), ("index rows", indices)):
        times = []
        for _ in range(repeats):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            started = time.perf_counter()
            assert post(connection, body) == 200
            times.append(time.perf_counter() - started)
            connection.close()
        found[f"{name} ({len(body) / 2**20:.1f} MiB)"] = statistics.median(times)
    return found


def in_process(files: list[Path], rows: np.ndarray) -> None:
    """The same without HTTP and Ray: what the application itself takes."""
    from hwsearch.service.loading import load
    from hwsearch.service.prediction import predict

    catalog = load(files, plan_of=lambda raw, source: (_ for _ in ()).throw(RuntimeError(source)))
    for name, architectures in (
        ("mappings", [a.to_dict() for a in catalog.space.architectures(rows)]),
        ("index rows", rows.tolist()),
    ):
        body = json.dumps({"architectures": architectures})
        times = []
        for _ in range(5):
            started = time.process_time()
            json.dumps(predict(catalog, json.loads(body)["architectures"]))
            times.append(time.process_time() - started)
        print(f"in process, {len(rows):,} architectures, 2 devices, {name}: {statistics.median(times):.3f} s CPU")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--warm", type=float, default=50.0, help="requests a second before, for 2 s")
    parser.add_argument("--in-process", action="store_true", help="only what needs no server")
    given = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()}")
    the_space = space()
    rows = the_space.sample(10_000, np.random.default_rng(1))
    with tempfile.TemporaryDirectory() as name:
        files = predictor_files(Path(name))
        in_process(files, rows)
        if given.in_process:
            return
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "hwsearch", "serve", *map(str, files), "--port", str(port)]
        command += ["--replicas", str(given.replicas)]
        started = time.perf_counter()
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None and server.stdout.readline(), "the service did not start"
            print(f"started in {time.perf_counter() - started:.0f} s")
            bodies = [
                json.dumps({"architectures": a.to_dict(), "devices": ["cpu"]}).encode()
                for a in the_space.architectures(rows[:200])
            ]
            at_rate(port, bodies, given.warm, 2, given.connections)
            idle = cpu_seconds(server.pid)
            time.sleep(5.0)
            before = cpu_seconds(server.pid)
            print("idle, CPU ms per second: " + ", ".join(f"{r} {200 * (before[r] - idle[r]):.0f}" for r in idle))
            found = at_rate(port, bodies, given.rate, given.seconds, given.connections)
            after = cpu_seconds(server.pid)
            print(f"single predictions at {given.rate:g}/s: " + ", ".join(f"{k} {v:.4g}" for k, v in found.items()))
            used = {role: 1e3 * (after[role] - before[role]) / found["requests"] for role in after}
            print("CPU ms per request: " + ", ".join(f"{role} {ms:.2f}" for role, ms in used.items()))
            for what, seconds in large(port, rows, 5).items():
                print(f"10,000 architectures, 2 devices, {what}: {seconds:.3f} s")
            print(f"load {os.getloadavg()}")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


if __name__ == "__main__":
    main()

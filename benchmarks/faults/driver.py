"""A driver killed with SIGKILL again and again: is the record whole after each, and the end the same?

python -m benchmarks.faults.driver [--storage journal postgresql] [--kills 10] [--trials 200] [--executor serial]

Moments: one while the program starts, one after the last record (validation, export), the others at a random count of
records and up to 20 ms later. The run is then finished and compared with one that nobody touched. With
`--executor ray` proposals depend on when workers answer, so that only the values of equal architectures are compared.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import psycopg
import yaml

from benchmarks.faults.record import NAME, config, problems, records
from tests import postgres

STARTED_S = 240.0


def start(path: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hwsearch", "run", str(path), "--run-dir", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def n_records(url: str | None, folder: Path) -> int:
    """Returns how many records there are, without Optuna: the look must not disturb."""
    if url is None:
        journal = folder / "study.log"
        return journal.read_bytes().count(b'"proposal_index"') if journal.exists() else 0
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM trials").fetchone()[0])
        except psycopg.errors.UndefinedTable:
            return 0


def wait_for(driver: subprocess.Popen[str], url: str | None, folder: Path, count: int) -> None:
    until = time.monotonic() + STARTED_S
    while n_records(url, folder) < count and driver.poll() is None:
        if time.monotonic() > until:
            raise TimeoutError(f"{count} records did not come")
        time.sleep(0.002 if url is None else 0.02)


def one(url: str | None, folder: Path, *, kills: int, trials: int, kind: str, rng: np.random.Generator) -> list[str]:
    """Kills and continues; prints a row per kill and returns everything that was wrong."""
    executor = {"kind": kind} if kind == "serial" else {"kind": kind, "workers": 2}
    raw = config(trials, executor=executor)
    whole = folder / "whole"
    (folder / "whole.yaml").write_text(yaml.safe_dump(raw))
    path, run = folder / "killed.yaml", folder / "killed"
    path.write_text(yaml.safe_dump(raw if url is None else {**raw, "storage": url}))
    wrong: list[str] = []
    counts = np.sort(rng.choice(np.arange(1, 2 * trials), size=kills - 2, replace=False))
    for n, count in enumerate([0, *counts.tolist(), 2 * trials]):
        driver = start(path, run)
        if count == 0:
            time.sleep(rng.uniform(0.5, 4.0))
        else:
            wait_for(driver, url, run, count)
            time.sleep(rng.uniform(0.0, 0.02 if count < 2 * trials else 1.0))
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate()
        if not (run / "config.yaml").exists():
            print(f"| {n + 1} | {count} | 0 | it had not made its folder |", flush=True)
            continue
        found = problems(url, run, gaps=kind != "serial") if n_records(url, run) else []
        wrong += found
        ended = "killed" if driver.returncode == -signal.SIGKILL else "had finished"
        there = n_records(url, run)
        print(f"| {n + 1} | {count} | {there} | {ended}; {'; '.join(found) or 'consistent'} |", flush=True)
    driver = start(path, run)
    said, _ = driver.communicate(timeout=STARTED_S)
    if driver.returncode != 0:
        return [*wrong, f"the run did not complete: {said[-500:]}"]
    wrong += problems(url, run, gaps=kind != "serial")
    left = [p.pid for p in psutil.process_iter(["cmdline"]) if str(run) in " ".join(p.info["cmdline"] or [])]
    if left or (run / "ray.pids").exists():
        wrong.append(f"processes are left: {left}")
    subprocess.run(
        [sys.executable, "-m", "hwsearch", "run", str(folder / "whole.yaml"), "--run-dir", str(whole)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    ours, theirs = records(url, run), records(None, whole)
    for study in (f"{NAME}@accuracy", f"{NAME}@phone"):
        if kind == "serial" and ours[study] != theirs[study]:
            wrong.append(f"{study} differs from the run that nobody touched")
        known = {genotype: values for *_, genotype, values in theirs[study]}
        both = [(known[genotype], values) for *_, genotype, values in ours[study] if genotype in known]
        if any(one != other for one, other in both):
            wrong.append(f"{study}: an architecture has other values")
        print(f"{study}: {len(ours[study])} records, {len(both)} of the same architectures as the untouched run")
    same = (run / "front.json").read_bytes() == (whole / "front.json").read_bytes()
    if kind == "serial" and not same:
        wrong.append("front.json differs")
    print(f"front.json is {'the same' if same else 'another one'}")
    return wrong


@contextmanager
def database(wanted: bool) -> Iterator[str | None]:
    if not wanted:
        yield None
        return
    with postgres.server() as server:
        yield server.new_database()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", nargs="+", default=["journal", "postgresql"])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--executor", default="serial", choices=["serial", "ray"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    wrong = []
    for storage in arguments.storage:
        print(f"\n{storage}, {arguments.executor}\n\n| kill | wanted at | records then | |\n|---|---|---|---|")
        with tempfile.TemporaryDirectory() as folder, database(storage == "postgresql") as url:
            rng = np.random.default_rng(arguments.seed)
            options = {"kills": arguments.kills, "trials": arguments.trials, "kind": arguments.executor}
            wrong += one(url, Path(folder), **options, rng=rng)
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()

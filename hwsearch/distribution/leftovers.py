"""The processes of a local Ray: noted while its driver lives, ended on the next start if the driver was killed."""

from __future__ import annotations

import os
from pathlib import Path

import psutil


def note_processes(ledger: Path) -> None:
    """Writes the processes that this driver's local Ray consists of to `ledger`."""
    rows = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "ray" in " ".join(child.cmdline()):
                rows.append(f"{child.pid} {child.create_time()}")
        except psutil.Error:
            continue
    ledger.parent.mkdir(parents=True, exist_ok=True)
    ledger.write_text("\n".join([f"{os.getpid()} {psutil.Process().create_time()}", *rows]) + "\n")


def end_leftovers(ledger: Path) -> int:
    """Ends the Ray processes noted in `ledger` whose driver is gone (or is this process); returns how many lived."""
    if not ledger.is_file():
        return 0
    rows = [row for line in ledger.read_text().splitlines() if (row := _process(line)) is not None]
    if rows and rows[0][0] != os.getpid() and _alive(*rows[0]):
        return 0
    leftovers = [process for pid, created in rows[1:] if (process := _alive(pid, created)) is not None]
    for process in leftovers:
        for child in process.children(recursive=True):
            child.kill()
        process.kill()
    ledger.unlink()
    return len(leftovers)


def _process(line: str) -> tuple[int, float] | None:
    """Returns (process id, time of its creation) of a line; None for a torn one."""
    pid, _, created = line.partition(" ")
    try:
        return int(pid), float(created)
    except ValueError:
        return None


def _alive(pid: int, created: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process if same else None

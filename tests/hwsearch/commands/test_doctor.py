"""The doctor says what is wrong and what to do."""

from __future__ import annotations

import time
from itertools import cycle
from pathlib import Path

import pytest

from hwsearch.commands import doctor as module
from hwsearch.commands.doctor import _noise, doctor


def test_this_installation_is_well(tmp_path: Path) -> None:
    checks = {check["name"]: check for check in doctor(tmp_path)}
    assert checks["libraries"]["state"] == "ok" and "torch" in checks["libraries"]["found"]
    assert "onnxruntime" in checks["runtimes"]["found"]
    assert checks["record"]["state"] == "problem" and "must hold config.yaml" in checks["record"]["found"]


def test_a_missing_library_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEEDED", ("torch", "no_such_library"))
    found = module._libraries()
    assert found["state"] == "problem" and found["found"] == "missing: no_such_library" and "pip" in found["hint"]


def test_noise_is_the_spread_of_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, steps = [0.0], cycle([1.0, 2.0])
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def uneven() -> None:
        clock[0] += next(steps)

    def even() -> None:
        clock[0] += 1.0

    assert _noise(even)["state"] == "ok" and "1000.00 ms ± 0.0 %" in _noise(even)["found"]
    noisy = _noise(uneven)
    # Half of all samples are 1 s, half are 2 s: median 1.5, quartiles 1 and 2.
    assert noisy["state"] == "note" and "± 33.3 %" in noisy["found"] and "repeats" in noisy["hint"]

"""Tuning: which form of a weight matrix is fastest on this machine, measured once per shape and density and kept."""

from __future__ import annotations

import ctypes
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hwsearch.native import forms
from hwsearch.native.compiler import RUNTIME, build_library, cache_folder, compiler, digest, runtime_files
from hwsearch.native.nodes import FloatArray
from hwsearch.native.scratch import scratch
from hwsearch.native.targets import Target, cpu_features, runs_here

ROUNDS = 5
CALL_NS = 150_000
"""Calls are repeated until they take so long: one alone is shorter than a clock's jitter."""


class Tuner:
    """Chooses forms by measuring candidates side by side; falls back to `forms.rule` for targets of other machines.

    Choices are kept in the cache folder, so that the same machine gives the same bytes.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._measure: Any = None
        key = digest(target.name, compiler()[1], *sorted(cpu_features()), *runtime_files().values())
        self._path = cache_folder() / f"forms-{key}.json"
        self._known: dict[str, str] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def __call__(self, weight: FloatArray, stride: int) -> str:
        """Returns the form for a weight (outputs, inputs) whose input has rows of `stride` floats."""
        names = forms.candidates(weight)
        if len(names) == 1 or not runs_here(self.target):
            return names[0] if len(names) == 1 else forms.rule(weight, stride)
        density = np.count_nonzero(weight) / weight.size
        key = f"{weight.shape[0]}x{weight.shape[1]}x{stride} {density:.2f} {forms.shared_density(weight):.1f}"
        if key not in self._known:
            times = self.times(weight, stride, names)
            self._known[key] = min(times, key=lambda name: times[name])
            self._keep()
        return self._known[key]

    def bound(self, weight: FloatArray, *, stride: int, form: str) -> Callable[[int], None]:
        """Returns a function that multiplies a matrix so many times, on zeros, as it is multiplied within a net.

        Args:
            weight: (outputs, inputs).
            stride: floats per row of the input.
            form: a name of `forms.FORMS`.
        """
        measure, vector = self._opened(), self.target.vector
        outputs, inputs = weight.shape
        sizes = [-(-(rows * stride + 2 * vector) // 16) * 16 for rows in (inputs, outputs)]
        x, y = np.split(scratch(4 * sum(sizes)).view(np.float32), [sizes[0]])
        bias = np.zeros(outputs, np.float32)
        stream = forms.pack(weight, form, stride=stride, vector=vector)
        pointers = (int(form == "pairs"), x.ctypes.data, y.ctypes.data, stream.ctypes.data)

        def call(repeats: int, *, kept: object = (x, y, bias, stream)) -> None:
            measure(*pointers, stride // vector, stride, bias.ctypes.data, repeats)

        return call

    def times(self, weight: FloatArray, stride: int, names: list[str]) -> dict[str, float]:
        """Returns form -> nanoseconds per call, the least of several rounds in turn."""
        calls = {name: self.bound(weight, stride=stride, form=name) for name in names}
        repeats = {}
        for name, call in calls.items():
            call(1)
            begin = time.perf_counter_ns()
            call(1)
            repeats[name] = max(1, round(CALL_NS / max(time.perf_counter_ns() - begin, 1)))
        best = dict.fromkeys(names, float("inf"))
        for _ in range(ROUNDS):
            for name, call in calls.items():
                begin = time.perf_counter_ns()
                call(repeats[name])
                best[name] = min(best[name], (time.perf_counter_ns() - begin) / repeats[name])
        return best

    def _opened(self) -> Any:
        if self._measure is None:
            content = build_library({"measure.c": (RUNTIME / "measure.c").read_bytes()}, target=self.target)
            with tempfile.NamedTemporaryFile(suffix=".so") as file:
                file.write(content)
                file.flush()
                self._measure = ctypes.CDLL(file.name).measure
            self._measure.restype = None
            pointer, number = ctypes.c_void_p, ctypes.c_int
            self._measure.argtypes = [number, pointer, pointer, pointer, number, number, pointer, number]
        return self._measure

    def _keep(self) -> None:
        with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False) as file:
            json.dump(self._known, file)
        Path(file.name).replace(self._path)  # atomic; of two processes the last one's choices stay

"""TimedDevice: what all in-process engines share - open artifacts, time them interleaved, normalise, report."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from hwsearch.devices.base import Device
from hwsearch.devices.timing import Call, TimingPlan, TimingResult, time_interleaved
from hwsearch.results import Artifact, Measurement

GROUP = 16
"""Artifacts timed in one set of rounds; more would all have to be open at once."""


class TimedDevice(Device):
    """A device that runs artifacts in this process. A backend says how to open an artifact and the reference net."""

    _reference: Call | None = None

    @abstractmethod
    def open(self, artifact: Artifact) -> Call:
        """Returns a call that runs the artifact once on `spec.batch` random examples and waits for the end.

        Raises:
            DeviceError: the runtime cannot open it.
        """

    @abstractmethod
    def open_reference(self) -> Call:
        """Returns the same for the fixed reference net (`reference.py`)."""

    def running(self) -> AbstractContextManager[None]:
        """Returns what must be held while calls are made (a thread count); by default nothing."""
        return nullcontext()

    def plan(self) -> TimingPlan:
        """Returns the spec's timing protocol."""
        spec = self.spec
        return TimingPlan(
            warmup=spec.warmup,
            repeats=spec.repeats,
            max_seconds=spec.max_seconds,
            target_ci=math.inf if spec.protocol == "fast" else spec.target_ci,
            clock=spec.clock,
        )

    def measure(self, artifacts: Sequence[Artifact]) -> list[Mapping[str, Measurement]]:
        """Returns latency per artifact; see `Device.measure`."""
        for artifact in artifacts:
            self.check(artifact)
        out: list[Mapping[str, Measurement]] = []
        for start in range(0, len(artifacts), GROUP):
            group = artifacts[start : start + GROUP]
            with self.running():
                if self._reference is None:
                    self._reference = self.open_reference()
                calls = {str(i): self.open(artifact) for i, artifact in enumerate(group)}
                result = time_interleaved(calls, self._reference, plan=self.plan())
            if self.reference_ms is None:
                self.reference_ms = result.reference.median_ms
            for i, artifact in enumerate(group):
                out.append({"latency_ms": self._latency(result, str(i), artifact, self.reference_ms)})
        return out

    def _latency(self, result: TimingResult, name: str, artifact: Artifact, reference_ms: float) -> Measurement:
        timing = result.candidates[name]
        return Measurement(
            value=timing.ratio * reference_ms,
            std=timing.ratio_std * reference_ms,
            unit="ms",
            repeats=timing.repeats,
            raw=timing.median_ms,
            environment={
                **self.fingerprint(),
                "precision": artifact.precision,
                "half_width_ms": timing.ratio_half_width * reference_ms,
                "raw_half_width_ms": timing.half_width_ms,
                "wall_ms": float(np.median(timing.wall_ms)),
                "cpu_ms": float(np.median(timing.cpu_ms)),
                "calls_per_sample": timing.calls,
                "reference_ms": result.reference.median_ms,
                "card_reference_ms": reference_ms,
                "reference_drift": result.drift,
                "protocol": self.spec.protocol,
                "target_reached": timing.ratio_half_width <= self.spec.target_ci * timing.ratio,
            },
        )

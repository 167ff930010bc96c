"""TimedDevice: what all in-process engines share - open artifacts, time them interleaved, normalise, report."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from hwsearch.devices.base import Device
from hwsearch.devices.environment import clock_of
from hwsearch.devices.reference import PAIRS, FixedNet
from hwsearch.devices.timing import Call, ClockName, Timing, TimingPlan, TimingResult, time_interleaved
from hwsearch.errors import DeviceError
from hwsearch.results import Artifact, Measurement

GROUP = 16
"""Artifacts timed in one set of rounds; more would all have to be open at once."""
CONTROL = "control"


class Stability:
    """How much a ratio changes from one measuring run to the next, learnt from the control net.

    Within a run, repeats share what the neighbours on the chip, the clock and the memory layout happen to be; an
    interval from them alone is too narrow when runs are compared (on a busy host it held for half of all pairs).

    The variance is a weighted mean of a prior and of the control's squared deviations from its mean log ratio, each
    less what the run's own interval explains (shrinkage with `PRIOR_RUNS` pseudo-observations).
    """

    PRIOR_STD, PRIOR_RUNS = 0.02, 4.0

    def __init__(self) -> None:
        self._ratios: list[float] = []
        self._variances: list[float] = []

    def add(self, control: Timing) -> None:
        """Takes in the control's ratio of one run."""
        self._ratios.append(math.log(control.ratio))
        self._variances.append((control.ratio_std / control.ratio) ** 2)

    @property
    def std(self) -> float:
        """Relative standard deviation from run to run."""
        squares = self.PRIOR_RUNS * self.PRIOR_STD**2
        runs = len(self._ratios)
        if runs > 1:
            spread = float(np.sum((np.array(self._ratios) - np.mean(self._ratios)) ** 2))
            squares += max(0.0, spread - (runs - 1) * float(np.mean(self._variances)))
        return math.sqrt(squares / (self.PRIOR_RUNS + max(0, runs - 1)))


class TimedDevice(Device):
    """A device that runs artifacts in this process. A backend says how to open an artifact and a fixed net.

    The reported half-width is sqrt(h^2 + (1.96 s)^2): h of the run's own interval, s of `Stability`.
    """

    _fixed: tuple[Call, Call] | None = None
    _stability: Stability | None = None

    @abstractmethod
    def open(self, artifact: Artifact) -> Call:
        """Returns a call that runs the artifact once on `spec.batch` random examples and waits for the end.

        Raises:
            DeviceError: the runtime cannot open it.
        """

    @abstractmethod
    def open_fixed(self, net: FixedNet) -> Call:
        """Returns the same for a fixed net (`reference.py`)."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Holds what must hold while calls are made: by default this thread, and all it starts, on the spec's cores.

        Raises:
            DeviceError: the system does not let the process run there.
        """
        if self.spec.cores is None:
            yield
            return
        wanted = f"device {self.spec.name}: cores {', '.join(map(str, self.spec.cores))}"
        if not hasattr(os, "sched_setaffinity"):
            raise DeviceError(f"{wanted} cannot be chosen on this system.")
        before = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, self.spec.cores)
        except OSError as error:
            allowed = ", ".join(map(str, sorted(before)))
            raise DeviceError(f"{wanted} must be among those this process may use: {allowed}.") from error
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    @property
    def clock(self) -> ClockName:
        """The clock that latencies are read from; see `clock_of`."""
        return clock_of(self.spec)

    def plan(self) -> TimingPlan:
        """Returns the spec's timing protocol."""
        spec = self.spec
        fast = spec.protocol == "fast"
        return TimingPlan(
            warmup=spec.warmup,
            repeats=spec.repeats,
            max_seconds=spec.max_seconds,
            target_ci=math.inf if fast else spec.target_ci,
            clock=self.clock,
            even=not fast,
        )

    def measure(self, artifacts: Sequence[Artifact]) -> list[Mapping[str, Measurement]]:
        """Returns latency per artifact; see `Device.measure`."""
        for artifact in artifacts:
            self.check(artifact)
        out: list[Mapping[str, Measurement]] = []
        for start in range(0, len(artifacts), GROUP):
            group = artifacts[start : start + GROUP]
            with self.running():
                result = self._time(group)
            if self.reference_ms is None:
                self.reference_ms = result.reference.median_ms
            for i, artifact in enumerate(group):
                out.append({"latency_ms": self._latency(result, str(i), artifact, self.reference_ms)})
        return out

    def _time(self, artifacts: Sequence[Artifact]) -> TimingResult:
        if self._fixed is None:
            reference, control = PAIRS[self.spec.reference]
            self._fixed = self.open_fixed(reference), self.open_fixed(control)
            self._stability = Stability()
        calls = {str(i): self.open(artifact) for i, artifact in enumerate(artifacts)}
        if self.spec.protocol != "fast":
            calls[CONTROL] = self._fixed[1]
        result = time_interleaved(calls, self._fixed[0], plan=self.plan())
        if CONTROL in result.candidates:
            assert self._stability is not None
            self._stability.add(result.candidates[CONTROL])
        return result

    def _latency(self, result: TimingResult, name: str, artifact: Artifact, reference_ms: float) -> Measurement:
        assert self._stability is not None
        timing = result.candidates[name]
        between = self._stability.std
        half_width = math.hypot(timing.ratio_half_width, 1.96 * between * timing.ratio) * reference_ms
        return Measurement(
            value=timing.ratio * reference_ms,
            std=half_width / 1.96,
            unit="ms",
            repeats=timing.repeats,
            raw=timing.median_ms,
            environment={
                **self.fingerprint(),
                "precision": artifact.precision,
                "half_width_ms": half_width,
                "within_half_width_ms": timing.ratio_half_width * reference_ms,
                "between_runs_std": between,
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

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
from hwsearch.devices.reference import REFERENCES, FixedNet
from hwsearch.devices.timing import Call, ClockName, Timing, TimingPlan, TimingResult, time_interleaved
from hwsearch.errors import DeviceError
from hwsearch.results import Artifact, Measurement

GROUP = 16
"""Artifacts timed in one set of rounds; more would all have to be open at once."""
WITNESS = "witness"


class Stability:
    """How much a net's ratio changes from one measuring run to the next, learnt from a net that is measured in each.

    Within a run, repeats share what the neighbours on the chip, the clock and the memory layout happen to be; an
    interval from them alone is too narrow when runs are compared (on a busy host it held for half of all pairs). So the
    first net that a device measures, the witness, is opened and timed again in every later run. No fixed net would do,
    nor one that stays open: how far two ratios differ depends on how a net uses caches and memory, and on where the
    engine puts it when it is opened (3 % from one opening to the next in OpenVINO, benchmarks/measurement).

    The variance is a weighted mean of a prior and of the squared deviations of the witness's log ratios from their
    mean, less what the runs' own intervals explain (shrinkage with `PRIOR_RUNS` pseudo-observations).
    """

    PRIOR_STD, PRIOR_RUNS = 0.025, 4.0

    def __init__(self) -> None:
        self._ratios: list[float] = []
        self._variances: list[float] = []

    def add(self, witness: Timing) -> None:
        """Takes in the witness's timing of one run."""
        self._ratios.append(math.log(witness.ratio))
        self._variances.append((witness.ratio_std / witness.ratio) ** 2)

    @property
    def _runs(self) -> float:
        """Degrees of freedom, the prior's included."""
        return self.PRIOR_RUNS + max(0, len(self._ratios) - 1)

    @property
    def std(self) -> float:
        """Relative standard deviation from run to run."""
        squares = self.PRIOR_RUNS * self.PRIOR_STD**2
        if self._ratios:
            spread = float(np.sum((np.array(self._ratios) - np.mean(self._ratios)) ** 2))
            squares += max(0.0, spread - (len(self._ratios) - 1) * float(np.mean(self._variances)))
        return math.sqrt(squares / self._runs)

    @property
    def half_width(self) -> float:
        """Relative 95 % half-width from run to run: Student's quantile, because few runs tell little about `std`."""
        from scipy.special import stdtrit

        return float(stdtrit(self._runs, 0.975)) * self.std


class TimedDevice(Device):
    """A device that runs artifacts in this process. A backend says how to open an artifact and a fixed net.

    The reported half-width is sqrt(h^2 + s^2): h of the run's own interval, s of `Stability`.
    """

    _reference: Call | None = None
    _witness: Artifact | None = None
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
        if self._reference is None or self._stability is None:
            self._reference = self.open_fixed(REFERENCES[self.spec.reference])
            self._stability = Stability()
        calls = {str(i): self.open(artifact) for i, artifact in enumerate(artifacts)}
        if self._witness is not None:
            calls[WITNESS] = self.open(self._witness)
        result = time_interleaved(calls, self._reference, plan=self.plan())
        if self._witness is not None:
            self._stability.add(result.candidates[WITNESS])
        elif self.spec.protocol != "fast":
            self._witness = artifacts[0]
            self._stability.add(result.candidates["0"])
        return result

    def _latency(self, result: TimingResult, name: str, artifact: Artifact, reference_ms: float) -> Measurement:
        assert self._stability is not None
        timing = result.candidates[name]
        half_width = math.hypot(timing.ratio_half_width, self._stability.half_width * timing.ratio) * reference_ms
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
                "between_runs_std": self._stability.std,
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

"""The timing protocol: candidates interleaved with a reference until the interval of the median is narrow enough.

Knows no runtime: it times callables. Why it is as it is (see docs/devices.md): speed drifts by 10 to 20 % within
minutes, so consecutive repeats of one net all share one error. In every round each candidate and the reference run
once, in an order of their own, and what counts is the ratio to the reference of the same round.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Call = Callable[[], object]
ClockName = Literal["running", "wall", "cpu"]
SCHEDSTAT = "/proc/thread-self/schedstat"
LEAST_ROUNDS = 6
"""With fewer samples no pair of order statistics covers a median with 95 %."""
REFERENCE = ""
_Samples = tuple[list[float], list[float], list[float]]
"""Of one net: wall, queued and CPU time per call, in ms, one entry per round."""


class Clock(Protocol):
    """Reads time in seconds; from anywhere, monotone."""

    def wall(self) -> float:
        """Returns wall time."""

    def cpu(self) -> float:
        """Returns CPU time of this process, all threads together."""

    def queued(self) -> float:
        """Returns how long this thread was ready to run while others had the cores; 0 where that is not known."""


class SystemClock:
    """The clocks of this process and thread. Close it in the end.

    Args:
        schedstat: the kernel's account of this thread: ns on a core, ns in the queue, number of turns.
    """

    def __init__(self, schedstat: str = SCHEDSTAT) -> None:
        try:
            self._file: int | None = os.open(schedstat, os.O_RDONLY)
        except OSError:
            self._file = None

    def close(self) -> None:
        """Closes the kernel's file."""
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def wall(self) -> float:
        """Returns `time.perf_counter`."""
        return time.perf_counter()

    def cpu(self) -> float:
        """Returns `time.process_time`."""
        return time.process_time()

    def queued(self) -> float:
        """Returns the kernel's number, Linux only."""
        return 0.0 if self._file is None else int(os.pread(self._file, 96, 0).split()[1]) / 1e9


def tells_queued(schedstat: str = SCHEDSTAT) -> bool:
    """Returns whether this system says how long a thread waited for a core."""
    return os.access(schedstat, os.R_OK)


@dataclass(frozen=True)
class TimingPlan:
    """How long and how often to time.

    Args:
        warmup: least number of untimed calls of each candidate.
        repeats: least number of rounds (`LEAST_ROUNDS` if that is more).
        max_seconds: per candidate; no round is begun later than this (the least number of an interval apart).
        target_ci: rounds end when every candidate's 95 % half-width is below this share of its median.
        clock: which clock's samples make the ratios and medians: `wall`; `cpu`; or `running`, wall time less what this
            thread waited in the queue for a core. On an idle machine `running` is `wall`.
        min_sample_ms: least length of a sample; shorter calls are timed several at a time.
        even: samples of all candidates last as long as the longest call, up to `max_sample_ms`; otherwise only the
            reference's do, as long as the typical candidate. Costs time, and holds on a busy host.
        max_sample_ms: see `even`.
        seed: of the order within the rounds.
    """

    warmup: int = 3
    repeats: int = 20
    max_seconds: float = 5.0
    target_ci: float = 0.03
    clock: ClockName = "running"
    min_sample_ms: float = 0.5
    even: bool = True
    max_sample_ms: float = 20.0
    seed: int = 0


@dataclass(frozen=True)
class Timing:
    """What was timed of one candidate; times are per call, in ms; arrays have one entry per round.

    Args:
        wall_ms, cpu_ms: samples on both clocks.
        samples_ms: on the plan's clock.
        ratios: to the reference of the same round, of `samples_ms` (ones for the reference itself).
        median_ms: of `samples_ms`.
        half_width_ms: of the 95 % interval of that median.
        ratio: median of the ratios.
        ratio_half_width: of the 95 % interval of that median.
        calls: calls per sample.
    """

    wall_ms: FloatArray
    cpu_ms: FloatArray
    samples_ms: FloatArray
    ratios: FloatArray
    median_ms: float
    half_width_ms: float
    ratio: float
    ratio_half_width: float
    calls: int

    @property
    def repeats(self) -> int:
        """Number of rounds."""
        return len(self.wall_ms)

    @property
    def ratio_std(self) -> float:
        """Standard error of `ratio`: its 95 % half-width / 1.96 (normal approximation)."""
        return self.ratio_half_width / 1.96


@dataclass(frozen=True)
class TimingResult:
    """One measuring run.

    Args:
        candidates: by name, in the order given.
        reference: the reference net.
        drift: median of the reference's last third of rounds over that of its first third, minus 1.
        rounds: how many.
        seconds: wall time of the whole run, warm-up included.
        reached: whether every half-width is inside the target.
    """

    candidates: Mapping[str, Timing]
    reference: Timing
    drift: float
    rounds: int
    seconds: float
    reached: bool


@lru_cache(maxsize=4096)
def interval_rank(n: int) -> int:
    """Returns k such that [x_(k), x_(n+1-k)] of n sorted samples covers the median with at least 95 %; 0 if none.

    The coverage is 1 - 2 P(B <= k - 1) with B binomial(n, 1/2), whatever the distribution (David and Nagaraja,
    Order Statistics, 3rd ed. 2003, section 7.1). k is the largest that holds.
    """
    below, k = 0, 0
    while k < n // 2:
        below += math.comb(n, k)
        if 2 * below > 0.05 * 2**n:
            break
        k += 1
    return k


def median_interval(samples: FloatArray) -> tuple[float, float]:
    """Returns the 95 % interval of the median from order statistics; infinite with fewer than `LEAST_ROUNDS`."""
    k = interval_rank(len(samples))
    if k == 0:
        return -math.inf, math.inf
    ordered = np.sort(samples)
    return float(ordered[k - 1]), float(ordered[-k])


def half_width(samples: FloatArray) -> float:
    """Returns half the length of `median_interval`."""
    low, high = median_interval(samples)
    return (high - low) / 2


def time_interleaved(
    candidates: Mapping[str, Call], reference: Call, *, plan: TimingPlan | None = None, clock: Clock | None = None
) -> TimingResult:
    """Times callables against a reference, interleaved.

    1. Each is called until it is warm: at least `warmup` times, and until two calls in a row are no new minimum.
    2. Rounds: the reference and every candidate once each, in a new random order (with a fixed order each net would
       always find the caches as the same other net left them). Short calls are timed several at a time.
    3. Until every half-width is inside `target_ci`, but at least `repeats` rounds, or the time is over.

    Args:
        candidates: name -> call without arguments that returns when the work is done (synchronised); not empty.
        reference: the same for the reference net.
        plan: by default `TimingPlan()`.
        clock: by default the system's.
    """
    if not candidates or REFERENCE in candidates:
        raise ValueError("candidates must be at least one call with a name, but got none or an empty name.")
    plan = plan or TimingPlan()
    if clock is not None:
        return _time_interleaved(candidates, reference, plan, clock)
    with closing(SystemClock()) as system:
        return _time_interleaved(candidates, reference, plan, system)


def _time_interleaved(candidates: Mapping[str, Call], reference: Call, plan: TimingPlan, clock: Clock) -> TimingResult:
    began = clock.wall()
    budget = plan.max_seconds * len(candidates)
    calls = {REFERENCE: reference, **candidates}
    best = {name: _warm(call, plan, clock, budget / (4 * len(calls))) for name, call in calls.items()}
    least = plan.min_sample_ms / 1000
    lengths = [max(best[name], least) for name in candidates]
    # Samples last about equally long. Short ones slip through between two interruptions that every long one suffers:
    # their ratio to the reference would change with the load of the host.
    shared = min(max(lengths), plan.max_sample_ms / 1000)
    counts = {name: _calls(best[name], shared if plan.even else least) for name in candidates}
    counts[REFERENCE] = _calls(best[REFERENCE], shared if plan.even else float(np.median(lengths)))
    samples: dict[str, _Samples] = {name: ([], [], []) for name in calls}
    names = list(calls)
    rounds = 0
    while True:
        order = np.random.default_rng([plan.seed, rounds]).permutation(len(names))
        for i in order:
            name = names[i]
            call, count = calls[name], counts[name]
            before = clock.wall(), clock.queued(), clock.cpu()
            for _ in range(count):
                call()
            cpu_end, queued_end, wall_end = clock.cpu(), clock.queued(), clock.wall()
            for which, end in enumerate((wall_end, queued_end, cpu_end)):
                samples[name][which].append(1000 * (end - before[which]) / count)
        rounds += 1
        if rounds < LEAST_ROUNDS:
            continue
        over = clock.wall() - began >= budget
        if not over and rounds < plan.repeats:
            continue
        timings = _timings(samples, counts, plan)
        reached = all(t.ratio_half_width <= plan.target_ci * t.ratio for t in timings.values())
        if reached or over:
            break
    reference_timing = timings.pop(REFERENCE)
    return TimingResult(
        candidates=timings,
        reference=reference_timing,
        drift=_drift(reference_timing.samples_ms),
        rounds=rounds,
        seconds=clock.wall() - began,
        reached=reached,
    )


def _calls(seconds: float, sample_seconds: float) -> int:
    return max(1, math.ceil(sample_seconds / max(seconds, 1e-9) - 0.01))


def _warm(call: Call, plan: TimingPlan, clock: Clock, seconds: float) -> float:
    """Returns the shortest call in seconds, after calling until two in a row bring no new minimum (by 1 %)."""
    began, best, n_calls, stale = clock.wall(), math.inf, 0, 0
    while n_calls < max(plan.warmup, 1) or (stale < 2 and clock.wall() - began < seconds):
        start = clock.wall()
        call()
        took = clock.wall() - start
        n_calls += 1
        stale = 0 if took < 0.99 * best else stale + 1
        best = min(best, took)
    return best


def _timings(samples: Mapping[str, _Samples], counts: Mapping[str, int], plan: TimingPlan) -> dict[str, Timing]:
    base = _on_clock(samples[REFERENCE], plan.clock)
    out = {}
    for name, rows in samples.items():
        chosen = _on_clock(rows, plan.clock)
        ratios = chosen / base
        out[name] = Timing(
            wall_ms=np.array(rows[0]),
            cpu_ms=np.array(rows[2]),
            samples_ms=chosen,
            ratios=ratios,
            median_ms=float(np.median(chosen)),
            half_width_ms=half_width(chosen),
            ratio=float(np.median(ratios)),
            ratio_half_width=half_width(ratios),
            calls=counts[name],
        )
    return out


def _on_clock(rows: _Samples, clock: ClockName) -> FloatArray:
    wall, queued, cpu = (np.array(row) for row in rows)
    chosen = {"wall": wall, "running": wall - queued, "cpu": cpu}[clock]
    # A clock may tick more coarsely than a sample; 1 ns keeps ratios finite.
    positive: FloatArray = np.maximum(chosen, 1e-6)
    return positive


def _drift(samples: FloatArray) -> float:
    third = max(1, len(samples) // 3)
    return float(np.median(samples[-third:]) / max(float(np.median(samples[:third])), 1e-9) - 1.0)

"""The timing protocol: candidates interleaved with a reference until the interval of the median is narrow enough.

Knows no runtime: it times callables. Why it is as it is (see docs/devices.md): speed drifts by 10 to 20 % within
minutes, so consecutive repeats of one net all share one error. In every round each candidate and the reference run
once, in an order of their own, and what counts is the ratio to the reference of the same round.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Call = Callable[[], object]
LEAST_ROUNDS = 6
"""With fewer samples no pair of order statistics covers a median with 95 %."""
REFERENCE = ""


class Clock(Protocol):
    """Reads time in seconds; from anywhere, monotone."""

    def wall(self) -> float:
        """Returns wall time."""

    def cpu(self) -> float:
        """Returns CPU time of this process, all threads together."""


class SystemClock:
    """The clocks of this process."""

    def wall(self) -> float:
        """Returns `time.perf_counter`."""
        return time.perf_counter()

    def cpu(self) -> float:
        """Returns `time.process_time`."""
        return time.process_time()


@dataclass(frozen=True)
class TimingPlan:
    """How long and how often to time.

    Args:
        warmup: least number of untimed calls of each candidate.
        repeats: least number of rounds (`LEAST_ROUNDS` if that is more).
        max_seconds: per candidate; no round is begun later than this (the least number of an interval apart).
        target_ci: rounds end when every candidate's 95 % half-width is below this share of its median.
        clock: which clock's samples make the ratios and medians.
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
    clock: Literal["wall", "cpu"] = "wall"
    min_sample_ms: float = 0.5
    even: bool = True
    max_sample_ms: float = 20.0
    seed: int = 0


@dataclass(frozen=True)
class Timing:
    """What was timed of one candidate; times are per call, in ms; arrays have one entry per round.

    Args:
        wall_ms, cpu_ms: samples on both clocks.
        ratios: to the reference of the same round, on the plan's clock (ones for the reference itself).
        median_ms: of the samples on the plan's clock.
        half_width_ms: of the 95 % interval of that median.
        ratio: median of the ratios.
        ratio_half_width: of the 95 % interval of that median.
        calls: calls per sample.
    """

    wall_ms: FloatArray
    cpu_ms: FloatArray
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
    clock = clock or SystemClock()
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
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    rounds = 0
    while True:
        order = np.random.default_rng([plan.seed, rounds]).permutation(len(names))
        for i in order:
            name = names[i]
            call, count = calls[name], counts[name]
            wall_start, cpu_start = clock.wall(), clock.cpu()
            for _ in range(count):
                call()
            cpu_end, wall_end = clock.cpu(), clock.wall()
            wall[name].append(1000 * (wall_end - wall_start) / count)
            cpu[name].append(1000 * (cpu_end - cpu_start) / count)
        rounds += 1
        if rounds < LEAST_ROUNDS:
            continue
        over = clock.wall() - began >= budget
        if not over and rounds < plan.repeats:
            continue
        timings = _timings(wall, cpu, counts, plan)
        reached = all(t.ratio_half_width <= plan.target_ci * t.ratio for t in timings.values())
        if reached or over:
            break
    reference_timing = timings.pop(REFERENCE)
    return TimingResult(
        candidates=timings,
        reference=reference_timing,
        drift=_drift(np.array((wall if plan.clock == "wall" else cpu)[REFERENCE])),
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


def _timings(
    wall: Mapping[str, list[float]], cpu: Mapping[str, list[float]], counts: Mapping[str, int], plan: TimingPlan
) -> dict[str, Timing]:
    chosen = wall if plan.clock == "wall" else cpu
    base = np.array(chosen[REFERENCE])
    out = {}
    for name in wall:
        samples = np.array(chosen[name])
        # A CPU clock may tick more coarsely than a sample; 1 ns keeps the ratio finite.
        ratios = np.maximum(samples, 1e-6) / np.maximum(base, 1e-6)
        out[name] = Timing(
            wall_ms=np.array(wall[name]),
            cpu_ms=np.array(cpu[name]),
            ratios=ratios,
            median_ms=float(np.median(samples)),
            half_width_ms=half_width(samples),
            ratio=float(np.median(ratios)),
            ratio_half_width=half_width(ratios),
            calls=counts[name],
        )
    return out


def _drift(samples: FloatArray) -> float:
    third = max(1, len(samples) // 3)
    return float(np.median(samples[-third:]) / max(float(np.median(samples[:third])), 1e-9) - 1.0)

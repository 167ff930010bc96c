"""The timing protocol on a simulated clock: everything it states can be checked exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hwsearch.devices.timed import Stability
from hwsearch.devices.timing import (
    LEAST_ROUNDS,
    SystemClock,
    Timing,
    TimingPlan,
    half_width,
    interval_rank,
    median_interval,
    tells_queued,
    time_interleaved,
)


class Simulated:
    """A clock that only calls advance; each takes its milliseconds times a drift and noise, and half of it computes."""

    def __init__(self, *, noise: float = 0.0, drift_per_s: float = 0.0, seed: int = 0) -> None:
        self.now, self.used, self.waited = 0.0, 0.0, 0.0
        self.noise, self.drift = noise, drift_per_s
        self.rng = np.random.default_rng(seed)
        self.log: list[str] = []

    def wall(self) -> float:
        return self.now

    def cpu(self) -> float:
        return self.used

    def queued(self) -> float:
        return self.waited

    def net(self, name: str, ms: float, *, cold: int = 0) -> Callable[[], None]:
        calls = 0

        def call() -> None:
            nonlocal calls
            calls += 1
            took = ms * math.exp(self.noise * self.rng.standard_normal()) * (1 + self.drift * self.now) / 1000
            if calls <= cold:
                took *= 10
            self.now += took
            self.used += took / 2
            self.log.append(name)

        return call


def run(clock: Simulated, nets: dict[str, float], *, plan: TimingPlan | None = None, cold: int = 0):
    calls = {name: clock.net(name, ms, cold=cold) for name, ms in nets.items()}
    return time_interleaved(calls, clock.net("reference", 2.0, cold=cold), plan=plan, clock=clock)


def test_exact_times_without_noise() -> None:
    result = run(Simulated(), {"a": 1.0, "b": 4.0})
    assert result.candidates["a"].median_ms == pytest.approx(1.0)
    assert result.candidates["b"].ratio == pytest.approx(2.0)
    assert result.candidates["b"].half_width_ms == pytest.approx(0.0, abs=1e-9)
    assert result.reference.median_ms == pytest.approx(2.0)
    assert np.allclose(result.candidates["a"].cpu_ms, 0.5)
    assert result.drift == pytest.approx(0.0)
    assert result.reached
    assert result.rounds == TimingPlan().repeats == result.candidates["a"].repeats


def test_cold_calls_are_not_measured() -> None:
    result = run(Simulated(), {"a": 1.0}, cold=2)
    assert np.allclose(result.candidates["a"].wall_ms, 1.0)


def test_rounds_hold_every_net_once_in_changing_order() -> None:
    clock = Simulated()
    run(clock, {"a": 1.0, "b": 1.0}, plan=TimingPlan(warmup=3))
    warm = [clock.log.index(name) for name in ("reference", "a", "b")]
    assert warm == sorted(warm)
    rounds = clock.log[9:]
    orders = [tuple(rounds[i : i + 3]) for i in range(0, len(rounds), 3)]
    assert len(orders) == 20
    assert all(sorted(order) == ["a", "b", "reference"] for order in orders)
    assert len(set(orders)) > 3


def test_short_calls_are_timed_several_at_a_time() -> None:
    result = run(Simulated(), {"tiny": 0.01, "large": 5.0}, plan=TimingPlan(even=False))
    assert result.candidates["tiny"].calls == 50
    assert result.candidates["tiny"].median_ms == pytest.approx(0.01)
    assert result.candidates["large"].calls == 1


def test_reference_lasts_as_long_as_the_candidates() -> None:
    result = run(Simulated(), {"a": 2.0, "b": 6.0, "c": 0.1})
    calls = [timing.calls for timing in (result.reference, *result.candidates.values())]
    assert calls == pytest.approx([3, 3, 1, 60], abs=1)
    assert run(Simulated(), {"a": 100.0}).reference.calls == pytest.approx(10, abs=1)  # at most 20 ms
    assert run(Simulated(), {"a": 6.0, "b": 6.0, "c": 90.0}, plan=TimingPlan(even=False)).reference.calls in (3, 4)


def test_load_that_interrupts_long_calls_cancels() -> None:
    # Another process takes the core for 4 ms after every 4 ms of ours: calls shorter than that mostly escape.
    class Shared(Simulated):
        def net(self, name: str, ms: float, *, cold: int = 0) -> Callable[[], None]:
            def call() -> None:
                before = int(self.used / 0.004)
                self.used += ms / 1000
                self.now += ms / 1000 + 0.004 * (int(self.used / 0.004) - before)

            return call

    quiet = run(Simulated(), {"a": 20.0}).candidates["a"].ratio
    clock = Shared()
    calls = {"a": clock.net("a", 20.0)}
    plan = TimingPlan(clock="wall")
    loaded = time_interleaved(calls, clock.net("reference", 2.0), plan=plan, clock=clock).candidates["a"]
    assert loaded.median_ms == pytest.approx(40, rel=0.1)
    assert loaded.ratio == pytest.approx(quiet, rel=0.1)


def test_drift_cancels_in_ratios() -> None:
    # 2 % per second over about 6 s: medians of raw times are off by several per cent, ratios are not.
    clock = Simulated(drift_per_s=0.02)
    plan = TimingPlan(repeats=300, max_seconds=60)
    result = run(clock, {"a": 10.0, "b": 20.0}, plan=plan)
    assert result.drift > 0.05
    assert result.candidates["a"].median_ms > 10.5
    assert result.candidates["a"].ratio == pytest.approx(5.0, rel=2e-3)
    assert result.candidates["b"].ratio == pytest.approx(10.0, rel=2e-3)


def test_repeats_until_the_interval_is_narrow() -> None:
    result = run(Simulated(noise=0.1), {"a": 3.0}, plan=TimingPlan(target_ci=0.02, max_seconds=1000))
    assert result.reached
    assert result.rounds > 50
    timing = result.candidates["a"]
    assert timing.ratio_half_width <= 0.02 * timing.ratio
    # 10 % noise on both sides, about 200 rounds: the standard error of the median is about 1 %.
    assert timing.ratio == pytest.approx(1.5, rel=0.05)
    assert timing.ratio_std == pytest.approx(timing.ratio_half_width / 1.96)


def test_time_ends_it_but_not_before_an_interval_exists() -> None:
    slow = run(Simulated(noise=0.1), {"a": 10_000.0}, plan=TimingPlan(max_seconds=1.0, target_ci=0.001))
    assert slow.rounds == LEAST_ROUNDS
    assert not slow.reached
    assert math.isfinite(slow.candidates["a"].ratio_half_width)
    budget = run(Simulated(noise=0.1), {"a": 3.0, "b": 3.0}, plan=TimingPlan(max_seconds=1.0, target_ci=0.0001))
    assert 1.9 < budget.seconds < 2.1  # one second per candidate


def test_cpu_clock_decides_when_asked_for() -> None:
    result = run(Simulated(), {"a": 4.0}, plan=TimingPlan(clock="cpu"))
    assert result.candidates["a"].median_ms == pytest.approx(2.0)
    assert result.candidates["a"].ratio == pytest.approx(2.0)


def test_waiting_for_a_core_is_left_out_unless_wall_time_is_asked_for() -> None:
    # Another process takes the core for 0 to 30 ms in every call, and the kernel tells.
    class Interrupted(Simulated):
        def net(self, name: str, ms: float, *, cold: int = 0) -> Callable[[], None]:
            def call() -> None:
                wait = 0.03 * self.rng.random()
                self.used += ms / 1000
                self.waited += wait
                self.now += ms / 1000 + wait

            return call

    running, wall = (
        run(Interrupted(), {"a": 8.0}, plan=TimingPlan(clock=name)).candidates["a"] for name in ("running", "wall")
    )
    assert running.median_ms == pytest.approx(8.0)
    assert running.ratio == pytest.approx(4.0)
    assert running.repeats == 20
    assert wall.median_ms > 12
    assert np.median(running.wall_ms) > 12  # both are recorded


def test_kernel_tells_how_long_a_thread_was_queued(tmp_path: Path) -> None:
    account = tmp_path / "schedstat"
    account.write_text("123 4000000000 5\n")
    clock = SystemClock(str(account))
    assert clock.queued() == 4.0
    account.write_text("123 4500000000 6\n")
    assert clock.queued() == 4.5
    clock.close()
    assert clock.queued() == 0.0
    assert tells_queued(str(account))
    missing = str(tmp_path / "nothing")
    assert not tells_queued(missing)
    assert SystemClock(missing).queued() == 0.0


def test_same_seed_same_order() -> None:
    logs = []
    for _ in range(2):
        clock = Simulated(noise=0.05)
        run(clock, {"a": 1.0, "b": 2.0})
        logs.append(clock.log)
    assert logs[0] == logs[1]


def test_nothing_to_time() -> None:
    with pytest.raises(ValueError, match="candidates must be at least one call with a name"):
        time_interleaved({}, lambda: None)


def test_interval_ranks() -> None:
    # Tables of the sign test (Conover 1999, or David and Nagaraja 2003): n = 6 -> 1, 10 -> 2, 20 -> 6, 100 -> 40.
    assert [interval_rank(n) for n in (1, 5, 6, 10, 20, 100)] == [0, 0, 1, 2, 6, 40]
    assert median_interval(np.array([1.0, 2.0])) == (-math.inf, math.inf)
    assert median_interval(np.arange(10.0)) == (1.0, 8.0)
    assert half_width(np.arange(10.0)) == 3.5


@pytest.mark.parametrize("n", [8, 21, 60])
def test_interval_covers_the_median(n: int) -> None:
    # 2,000 draws of a skewed distribution: coverage must be at least 95 % minus 3 standard errors (0.5 % each).
    rng = np.random.default_rng(n)
    covered = 0
    for _ in range(2000):
        low, high = median_interval(rng.exponential(size=n))
        covered += low <= math.log(2) <= high
    assert covered / 2000 > 0.95 - 0.015


def timing_of_ratio(ratio: float, *, half_width: float = 0.0) -> Timing:
    none = np.zeros(0)
    return Timing(none, none, none, none, 1.0, 0.0, ratio, half_width, 1)


def learnt(std: float, *, half_width: float = 0.0, runs: int = 400) -> Stability:
    """Returns what is learnt from a witness whose ratio varies by `std`, each timed with a relative half-width."""
    stability = Stability()
    for ratio in 3.0 * np.exp(std * np.random.default_rng(0).standard_normal(runs)):
        stability.add(timing_of_ratio(ratio, half_width=half_width * ratio))
    return stability


def test_stability_is_learnt_from_the_net_that_is_measured_again() -> None:
    stability = Stability()
    assert stability.std == pytest.approx(Stability.PRIOR_STD)
    stability.add(timing_of_ratio(1.0))
    assert stability.std == pytest.approx(Stability.PRIOR_STD)  # one run says nothing
    assert stability.half_width == pytest.approx(2.776 * stability.std, rel=1e-3)  # Student, 4 degrees of freedom
    assert learnt(0.1).std == pytest.approx(0.1, rel=0.1)  # standard error of a deviation from 400: 3.5 %
    assert learnt(0.1).half_width == pytest.approx(0.196, rel=0.1)
    assert learnt(0.0, runs=50).std < 0.008
    # What the runs' own intervals explain is not counted again.
    assert learnt(0.1, half_width=0.1 * 1.96).std < 0.04


def test_system_clock_moves() -> None:
    clock = SystemClock()
    wall, cpu = clock.wall(), clock.cpu()
    sum(range(200_000))
    assert clock.wall() > wall
    assert clock.cpu() > cpu

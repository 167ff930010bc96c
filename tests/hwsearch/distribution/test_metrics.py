"""What a run hands to Ray's metrics, and how often."""

from __future__ import annotations

from typing import Any

import pytest

from hwsearch.distribution import metrics
from hwsearch.results import RunCounts


class Recorder:
    made: dict[str, Recorder] = {}

    def __init__(self, name: str, **options: Any) -> None:
        self.value, self.tags = 0.0, {}
        Recorder.made[name] = self

    def set_default_tags(self, tags: dict[str, str]) -> None:
        self.tags = tags

    def inc(self, value: float) -> None:
        assert value > 0
        self.value += value

    def set(self, value: float) -> None:
        self.value = value


def test_counters_grow_by_what_is_new_and_idle_time_is_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(metrics, "Counter", Recorder)
    monkeypatch.setattr(metrics, "Gauge", Recorder)
    monkeypatch.setattr(metrics.time, "monotonic", lambda: clock[0])
    made = metrics.RunMetrics("mine")
    asked = []

    def at(seconds: float, counts: RunCounts, workers: int, busy: int) -> dict[str, float]:
        clock[0] = 100.0 + seconds
        made.look(lambda: asked.append(1) or counts, n_workers=workers, n_busy=busy)
        return {name.removeprefix("hwsearch_"): m.value for name, m in Recorder.made.items()}

    assert set(at(0.5, RunCounts(9, 9, 9, 9.0), 4, 4).values()) == {0.0}
    assert not asked
    seen = at(2.0, RunCounts(5, 1, 3, 0.25), 4, 1)
    assert seen == {
        "trials_done": 5,
        "trials_failed": 1,
        "trials_in_flight": 3,
        "engine_seconds": 0.25,
        "workers": 4,
        "worker_idle_share": pytest.approx(4.5 / 8),
    }
    assert at(4.0, RunCounts(7, 1, 0, 0.5), 2, 2)["trials_done"] == 7
    assert Recorder.made["hwsearch_worker_idle_share"].value == 0.0
    assert all(m.tags == {"run": "mine"} for m in Recorder.made.values())

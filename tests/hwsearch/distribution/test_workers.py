from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from hwsearch import build
from hwsearch.devices.base import Device, DeviceSpec, Fingerprint
from hwsearch.distribution.jobs import EvaluateJob, MeasureJob
from hwsearch.distribution.workers import WEIGHTS, DeviceLane, NetworkWorker
from hwsearch.results import Artifact, Measurement
from tests.contracts.fake_workers import artifact
from tests.hwsearch.runs import costs_only, digits


class Choosy(Device):
    """Breaks on an odd artifact, and with it the whole batch."""

    batches: list[int]

    def measure(self, artifacts: Sequence[Artifact]) -> list[Mapping[str, Measurement]]:
        self.batches.append(len(artifacts))
        for a in artifacts:
            if int(a.content) % 2:
                raise RuntimeError(f"{int(a.content)} is\nodd")
        return [{"latency_ms": Measurement(float(a.content), 0.0, "ms")} for a in artifacts]

    def fingerprint(self) -> Fingerprint:
        return {}


def job(*indices: int, reference_ms: float | None = None) -> MeasureJob:
    return MeasureJob("cpu", indices, tuple(artifact(i) for i in indices), reference_ms)


def test_an_artifact_that_breaks_the_device_does_not_spoil_the_others() -> None:
    device = Choosy(DeviceSpec(name="cpu"))
    device.batches = []
    results = DeviceLane(device).measure(job(0, 1, 2, 3))
    assert [r if isinstance(r, str) else r["latency_ms"].value for r in results] == [
        0.0,
        "RuntimeError: 1 is odd",
        2.0,
        "RuntimeError: 3 is odd",
    ]
    assert device.batches == [4, 1, 1, 1, 1]


def test_a_frozen_reference_value_is_used() -> None:
    device = Choosy(DeviceSpec(name="cpu"))
    device.batches = []
    lane = DeviceLane(device)
    lane.measure(job(0))
    assert device.reference_ms is None
    lane.measure(job(0, reference_ms=0.5))
    lane.measure(job(0))
    assert device.reference_ms == 0.5


@pytest.fixture(scope="module")
def worker() -> NetworkWorker:
    plan = build.load_raw(digits(), source="c")
    made = build.Factory(plan.config.to_dict()).accuracy(plan.supernet().to_arrays())
    assert isinstance(made, NetworkWorker)
    return made


def test_the_same_network_is_the_same_bytes(worker: NetworkWorker) -> None:
    row = worker.supernet.space.row(worker.supernet.space.smallest())
    (a, made_a), (b, made_b) = (worker.evaluate(EvaluateJob(i, row)) for i in range(2))
    assert a.error is None
    assert a.metrics == b.metrics
    assert a.attributes["weights_sha256"] == b.attributes["weights_sha256"]
    assert made_a["cpu"] == made_b["cpu"]
    largest = worker.supernet.space.row(worker.supernet.space.largest())
    other, _ = worker.evaluate(EvaluateJob(2, largest))
    assert other.attributes["weights_sha256"] != a.attributes["weights_sha256"]


def test_the_hold_out_is_scored_on_its_own_rows_and_hands_over_the_weights(worker: NetworkWorker) -> None:
    row = worker.supernet.space.row(worker.supernet.space.largest())
    search, made = worker.evaluate(EvaluateJob(0, row))
    holdout, handed_over = worker.evaluate(EvaluateJob(0, row, split="holdout"))
    assert WEIGHTS not in made
    assert set(handed_over[WEIGHTS].files) == {"model.safetensors", "model.sparse.safetensors"}
    assert handed_over["cpu"] == made["cpu"]
    assert search.metrics["loss"] != holdout.metrics["loss"]
    assert search.attributes == holdout.attributes
    without, none = worker.evaluate(EvaluateJob(0, row, artifacts=False))
    assert none == {}
    assert without.metrics == search.metrics


def test_a_network_that_fails_is_an_evaluation_with_an_error(worker: NetworkWorker) -> None:
    import numpy as np

    evaluation, made = worker.evaluate(EvaluateJob(0, np.full(2, 99, np.uint8)))
    assert evaluation.error is not None
    assert evaluation.error.startswith("ValueError: ")
    assert "\n" not in evaluation.error
    assert (evaluation.metrics, made) == ({}, {})


def test_costs_alone_need_no_network() -> None:
    plan = build.load_raw(costs_only(devices={"d": {"runtime": "analytic"}}, objectives=["macs@d"]), source="c")
    made = build.Factory(plan.config.to_dict()).accuracy(None)
    row = plan.space.row(plan.space.largest())
    for split in ("search", "holdout"):
        evaluation, artifacts = made.evaluate(EvaluateJob(0, row, split=split))
        assert evaluation.error is None
        assert "weights_sha256" not in evaluation.attributes
        assert artifacts["d"].format == "costs"
        assert artifacts["d"].costs["macs"] == evaluation.metrics["macs"]
        assert WEIGHTS not in artifacts

"""Capability cards, profiling, and what is dropped from a space because of a card."""

from __future__ import annotations

import json

import pytest

from hwsearch.build.registry import named
from hwsearch.devices.base import DeviceSpec
from hwsearch.devices.card import CapabilityCard, Probe, decide
from hwsearch.devices.onnxruntime_device import OnnxRuntimeDevice
from hwsearch.devices.profile import CHANNELS, channel_multiple, profile, profiling_spec
from hwsearch.devices.simulated_device import SimulatedDevice
from hwsearch.errors import UserError
from hwsearch.export.onnx_exporter import OnnxExporter
from hwsearch.objectives import Objective

ACCURACY = Objective("accuracy", direction="maximize")
LATENCY = Objective("latency_ms", device="cpu")
BYTES = Objective("stored_bytes")


def card(*probes: tuple[str, str, str, float, float]) -> CapabilityCard:
    made = tuple(
        Probe(group, subject, variant, 1.0, 0.0, speed, width) for group, subject, variant, speed, width in probes
    )
    return CapabilityCard("cpu", {"runtime": "x"}, "2026-11-22", 8, made)


DENSE_ENGINE = card(
    ("sparsity", "cnn", "unstructured-0.9", 1.01, 0.03), ("sparsity", "ffn", "unstructured-0.9", 0.98, 0.02)
)


def one(choice: str, objectives: list[Objective], *, group: str = "sparsity", **cards: CapabilityCard):
    (decision,) = decide([choice], group=group, objectives=objectives, cards=cards)
    return decision


def test_zeros_without_kernels_are_dropped_with_the_reason() -> None:
    decision = one("unstructured-0.9", [ACCURACY, LATENCY, Objective("macs")], cpu=DENSE_ENGINE)
    assert not decision.kept
    assert decision.reason == (
        "no objective can gain from it: latency_ms@cpu was at most 1.01 +- 0.03 times as fast (cnn), "
        "and 1.05 must be shown"
    )


def test_zeros_stay_when_bytes_count() -> None:
    decision = one("unstructured-0.9", [ACCURACY, LATENCY, BYTES], cpu=DENSE_ENGINE)
    assert decision.kept
    assert decision.reason == "stored_bytes shrinks with every zero"
    limit = Objective("nonzeros", limit=1e6)
    assert one("2:4", [ACCURACY, limit]).kept
    assert one("2:4", [Objective("stored_bytes", device="costs")]).kept


def test_one_device_with_kernels_is_enough() -> None:
    sparse = card(("sparsity", "cnn", "unstructured-0.9", 0.9, 0.1), ("sparsity", "ffn", "unstructured-0.9", 1.8, 0.1))
    other = Objective("latency_ms", device="board")
    decision = one("unstructured-0.9", [LATENCY, other], cpu=DENSE_ENGINE, board=sparse)
    assert decision.kept
    assert decision.reason == "latency_ms@board gains 1.80x (ffn)"


def test_a_gain_must_be_shown() -> None:
    noisy = card(("sparsity", "cnn", "2:4", 1.3, 0.4))
    assert not one("2:4", [LATENCY], cpu=noisy).kept
    small = card(("sparsity", "cnn", "2:4", 1.04, 0.001))
    assert not one("2:4", [LATENCY], cpu=small).kept


def test_what_is_not_known_stays() -> None:
    assert one("2:4", [LATENCY]).reason == "latency_ms@cpu may gain: there is no capability card of cpu"
    assert one("1:4", [LATENCY], cpu=DENSE_ENGINE).reason == "latency_ms@cpu may gain: it is not on the card of cpu"
    energy = Objective("energy_mj", device="cpu")
    assert one("unstructured-0.9", [energy], cpu=DENSE_ENGINE).kept


def test_precisions_and_baselines() -> None:
    engine = card(("precision", "cnn", "int8", 0.8, 0.05), ("precision", "ffn", "bf16", 1.9, 0.05))
    decisions = decide(
        ["fp32", "int8", "bf16"], group="precision", objectives=[ACCURACY, LATENCY], cards={"cpu": engine}
    )
    assert [d.kept for d in decisions] == [True, False, True]
    assert one("int8", [LATENCY, BYTES], group="precision", cpu=engine).reason == (
        "stored_bytes shrinks with the bytes of a value"
    )
    assert not one("int8", [LATENCY, Objective("nonzeros")], group="precision", cpu=engine).kept
    assert one("dense", [ACCURACY]).reason == "the baseline"
    assert one("2:4", [ACCURACY]).reason == "no objective can gain from it: none depends on it"


def test_a_precision_pays_only_where_it_is_admitted() -> None:
    def kept(**admits: list[str]) -> bool:
        (decision,) = decide(["int8"], group="precision", objectives=[ACCURACY, LATENCY], cards={}, admits=admits)
        return decision.kept

    assert kept(cpu=["fp32", "int8"])
    assert not kept(cpu=["fp32"])
    assert not kept()


def test_what_is_known_of_an_engine_counts_where_nothing_was_measured() -> None:
    def reason(knowledge: bool | None, *objectives: Objective, **cards: CapabilityCard) -> str:
        (decision,) = decide(
            ["2:4"], group="sparsity", objectives=objectives, cards=cards, skips_zeros=lambda device, pattern: knowledge
        )
        assert decision.kept == (" can gain from it" not in decision.reason)
        return decision.reason

    assert reason(False, ACCURACY, LATENCY) == (
        "no objective can gain from it: latency_ms@cpu cannot, the engine of cpu computes zeros like any value"
    )
    assert reason(True, ACCURACY, LATENCY) == "latency_ms@cpu gains: cpu skips zeros"
    assert reason(None, LATENCY) == "latency_ms@cpu may gain: there is no capability card of cpu"
    assert reason(False, Objective("macs", device="cpu")) == "no objective can gain from it: none depends on it"
    measured = card(("sparsity", "cnn", "2:4", 1.3, 0.1))
    assert reason(False, LATENCY, cpu=measured) == "latency_ms@cpu gains 1.30x (cnn)"  # a measurement is worth more


@pytest.mark.parametrize(
    ("runtime", "options", "pattern", "expected"),
    [
        ("onnxruntime", {}, "unstructured-0.9", False),
        ("onnxruntime", {"provider": "tensorrt"}, "2:4", None),
        ("openvino", {}, "2:4", False),
        ("torch", {}, "2:4", False),
        ("torch", {"device": "cuda", "semi_structured": True}, "2:4", None),
        ("torch", {"device": "cuda", "semi_structured": True}, "1:4", False),
        ("simulated", {}, "2:4", False),
        ("simulated", {"sparse": True}, "unstructured-0.5", True),
        ("simulated", {"table": "t.csv"}, "2:4", None),
        ("command", {}, "2:4", None),
    ],
)
def test_what_engines_do_with_zeros(runtime: str, options: dict[str, object], pattern: str, expected: object) -> None:
    spec = DeviceSpec.model_validate({"name": "d", "runtime": runtime, "options": options})
    assert named("devices", runtime, "runtime").skips_zeros(spec, pattern) is expected


def test_card_round_trip_and_table() -> None:
    made = card(("kernel", "cnn", "7", 0.17, 0.01))
    assert CapabilityCard.from_json(made.to_json()) == made
    assert "| kernel | cnn | 7 | 1.000 | 0.17 +- 0.01 |" in made.table()
    for text in ("", "[]", "{}", json.dumps({"format_version": 1, "probes": [{}], "missing": []})):
        with pytest.raises(UserError, match="capability card must be JSON written by `profile`, but"):
            CapabilityCard.from_json(text)
    with pytest.raises(UserError, match="must have format_version 1, but got 9"):
        CapabilityCard.from_json(made.to_json().replace('"format_version": 1', '"format_version": 9'))


def test_simulated_device_with_sparse_kernels_keeps_zeros() -> None:
    calls: list[str] = []
    cards = {}
    for sparse in (False, True):
        spec = DeviceSpec(name="cpu", runtime="simulated", options={"sparse": sparse, "noise": 0})
        made = profile(
            SimulatedDevice(spec), None, created="2026-11-22", observe=lambda s, i, n: calls.append(f"{s} {i}/{n}")
        )
        cards[sparse] = made
        assert one("unstructured-0.9", [ACCURACY, LATENCY], cpu=made).kept == sparse
    assert calls[:4] == ["cnn 0/4", "ffn 1/4", "linear 2/4", "pointwise 3/4"]
    # Where zeros may be skipped, layers of several shapes are probed too.
    assert calls[4:9] == ["cnn 0/7", "ffn 1/7", "linear 2/7", "pointwise 3/7", "40-240-40 at 28 x 28 4/7"]
    assert cards[True].break_even("96-576-96 at 14 x 14", "block-4x1") == 0.3  # the least that is probed
    assert "| 96-576-96 at 14 x 14 | at most 0.50 | at most 0.30 |" in cards[True].table()
    assert cards[False].of("sparsity", "unstructured-0.9")[0].speedup == pytest.approx(1.0)
    assert cards[True].of("sparsity", "2:4")[0].speedup == pytest.approx(2.0, rel=0.03)
    assert cards[True].of("depth", "1")[0].speedup > 1.5
    groups = {p.group for p in cards[True].probes}
    assert groups == {"baseline", "kernel", "expand", "depth", "resolution", "sparsity", "channels"}
    assert cards[True].channel_multiple == 1


def test_real_engine_and_what_it_cannot_export(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DeviceSpec(
        name="cpu",
        precisions=("fp32", "int8-dynamic"),
        repeats=6,
        warmup=1,
        max_seconds=0.05,
        reference="small",
    )
    device = OnnxRuntimeDevice(spec)
    made = profile(
        device, OnnxExporter(), created="2026-11-22", patterns=("2:4",), side=32, subjects=("cnn", "pointwise")
    )
    assert made.fingerprint["runtime"] == "onnxruntime"
    assert {p.variant for p in made.probes if p.group == "precision"} == {"int8-dynamic"}
    assert len([p for p in made.probes if p.group == "channels"]) == len(CHANNELS)
    assert all(p.latency_ms > 0 and p.speedup > 0 for p in made.probes)

    class Picky(OnnxExporter):
        def export(self, module, example, *, precision="fp32", costs, calibration=()):  # type: ignore[no-untyped-def]
            if precision != "fp32":
                raise UserError("no")
            return super().export(module, example, precision=precision, costs=costs)

    made = profile(device, Picky(), created="2026-11-22", patterns=(), subjects=("ffn",))
    assert made.missing == ("precision/ffn/int8-dynamic: no",)
    assert "Not measured: precision/ffn/int8-dynamic: no" in made.table()


def test_where_a_pattern_breaks_even() -> None:
    made = card(
        ("sparsity", "net", "unstructured-0.9", 4.0, 0.1),
        ("sparsity", "net", "unstructured-0.5", 0.8, 0.1),
        ("sparsity", "net", "2:4", 0.7, 0.1),
        ("sparsity", "net", "block-4x1-0.3", 0.9, 0.1),
        ("sparsity", "other", "unstructured-0.5", 1.5, 0.1),
    )
    # Times 1.25 and 0.25 of dense at 0.5 and 0.9: 1 at a quarter of the way.
    assert made.break_even("net", "unstructured") == pytest.approx(0.6)
    assert made.break_even("net", "block-4x1") is None
    assert made.break_even("net", "groups-2") is None
    assert "| net | 0.60 | above 0.30 |\n| other | at most 0.50 | - |" in made.table()


def test_channel_multiple() -> None:
    smooth = {c: c**2 * 1e-3 for c in range(56, 73)}
    assert channel_multiple(smooth) == 1
    padded = {c: (-(-c // 8) * 8) ** 2 * 1e-3 for c in range(56, 73)}
    assert channel_multiple(padded) == 8
    pairs = {c: c**2 * (1e-3 if c % 2 == 0 else 2e-3) for c in range(56, 73)}
    assert channel_multiple(pairs) == 2
    assert channel_multiple({}) == 8


def test_profiling_spec() -> None:
    spec = DeviceSpec(name="x", protocol="fast", max_seconds=0.1)
    narrow = profiling_spec(spec)
    assert (narrow.protocol, narrow.target_ci, narrow.max_seconds) == ("default", 0.02, 5.0)
    assert profiling_spec(spec.model_copy(update={"clock": "cpu"})).clock == "cpu"

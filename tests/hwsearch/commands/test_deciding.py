"""Choices that no objective can gain from are left out of the space: once, with the reason, for good."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hwsearch.build import load_raw
from hwsearch.commands.deciding import decide_space, differences, freeze
from hwsearch.commands.run import run
from hwsearch.devices.card import CapabilityCard, Probe
from hwsearch.errors import ConfigError, RunFolderError
from hwsearch.runfolder import RunFolder
from tests.hwsearch.runs import Silent, costs_only, digits, write

SPARSE = ["dense", "unstructured-0.9", "2:4"]
PLAIN = {"runtime": "simulated"}
KERNELS = {"runtime": "simulated", "options": {"sparse": True}}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # cards are looked for in the working directory


def raw_of(*objectives: str, keep: Any = (), **changes: Any) -> dict[str, Any]:
    sparsity = {"choices": SPARSE, "keep": keep}
    return digits(objectives=list(objectives), sparsity=sparsity, **changes)


def test_zeros_are_dropped_where_only_a_dense_engine_could_gain() -> None:
    decided = decide_space(load_raw(raw_of("accuracy", "latency_ms@cpu"), source="c"))
    assert decided.sparsity == ("dense",)
    assert decided.dropped[0] == (
        "sparsity.choices: unstructured-0.9 is not searched: no objective can gain from it: latency_ms@cpu cannot, "
        "the engine of cpu computes zeros like any value"
    )
    assert [line.split(" ")[1] for line in decided.dropped] == ["unstructured-0.9", "2:4"]


@pytest.mark.parametrize(
    "raw",
    [
        raw_of("accuracy", "latency_ms@cpu", "stored_bytes"),
        raw_of("accuracy", "latency_ms@cpu", limits=[{"metric": "nonzeros", "max": 900}]),
        raw_of("accuracy", "latency_ms@cpu", "latency_ms@sim", devices={**digits()["devices"], "sim": KERNELS}),
        raw_of("accuracy", "latency_ms@cpu", keep="all"),
    ],
)
def test_zeros_stay_where_something_gains(raw: dict[str, Any]) -> None:
    decided = decide_space(load_raw(raw, source="c"))
    assert decided.sparsity == tuple(SPARSE)
    assert decided.dropped == ()


def test_the_quickstart_stays_a_search_for_sparse_nets() -> None:
    root = Path(__file__).resolve().parents[3]
    raw = yaml.safe_load((root / "configs/quickstart.yaml").read_text())
    assert decide_space(load_raw(raw, source="c")).sparsity == tuple(raw["sparsity"]["choices"])


def test_what_the_configuration_keeps_and_what_must_stay() -> None:
    decided = decide_space(load_raw(raw_of("accuracy", "latency_ms@cpu", keep=["2:4"]), source="c"))
    assert decided.sparsity == ("dense", "2:4")
    only_sparse = digits(objectives=["accuracy", "latency_ms@cpu"], sparsity={"choices": ["2:4", "1:4"]})
    assert decide_space(load_raw(only_sparse, source="c")).sparsity == ("2:4",)
    with pytest.raises(ConfigError, match=r"sparsity: keep must list some of the choices \['dense', .*, but got '3:4'"):
        load_raw(raw_of("accuracy", keep=["3:4"]), source="c")
    with pytest.raises(ConfigError, match=r"sparsity\.keep must be 'all' or a list of choices, but got 'most'"):
        load_raw(raw_of("accuracy", keep="most"), source="c")


# ---- cards ---------------------------------------------------------------------------------------------------------


def write_card(path: Path, speedup: float, **fingerprint: Any) -> None:
    plan = load_raw(costs_only(objectives=["latency_ms@sim"], devices={"sim": PLAIN}), source="c")
    found = {**plan.device("sim").fingerprint(), **fingerprint}
    probes = tuple(Probe("sparsity", "cnn", name, 1.0, 0.0, speedup, 0.02) for name in SPARSE[1:])
    path.parent.mkdir(exist_ok=True)
    path.write_text(CapabilityCard("sim", found, "2026-11-22", 8, probes).to_json())


def on_sim(**device: Any) -> dict[str, Any]:
    return costs_only(
        sparsity={"choices": SPARSE}, objectives=["macs", "latency_ms@sim"], devices={"sim": {**PLAIN, **device}}
    )


def test_a_card_is_worth_more_than_what_is_known() -> None:
    assert decide_space(load_raw(on_sim(), source="c")).sparsity == ("dense",)
    write_card(Path("devices/sim.card.json"), 1.5)
    assert decide_space(load_raw(on_sim(), source="c")).sparsity == tuple(SPARSE)
    write_card(Path("mine.json"), 1.01)
    decided = decide_space(load_raw(on_sim(card="mine.json"), source="c"))
    assert decided.sparsity == ("dense",)
    assert "latency_ms@sim was at most 1.01 +- 0.02 times as fast (cnn), and 1.05 must be shown" in decided.dropped[0]


def test_cards_of_other_devices_do_not_count() -> None:
    write_card(Path("devices/sim.card.json"), 1.5, gmacs_per_s=3.0, batch=9)
    decided = decide_space(load_raw(on_sim(), source="c"))
    assert decided.sparsity == ("dense",)
    assert decided.dropped[0] == (
        "devices/sim.card.json does not count: it is not of device sim (gmacs_per_s 3.0 against 20.0)"
    )
    with pytest.raises(ConfigError, match=r"devices\.sim\.card must be of this device, but .* gmacs_per_s 3\.0"):
        decide_space(load_raw(on_sim(card="devices/sim.card.json"), source="c"))
    with pytest.raises(ConfigError, match=r"devices\.sim\.card must be a file that `hwsearch profile` wrote"):
        decide_space(load_raw(on_sim(card="nowhere.json"), source="c"))
    Path("bad.json").write_text("{")
    with pytest.raises(ConfigError, match=r"devices\.sim\.card: bad\.json: a capability card must be JSON"):
        decide_space(load_raw(on_sim(card="bad.json"), source="c"))
    assert differences({"runtime": "a", "batch": 1}, {"runtime": "b", "batch": 2, "x": 1}) == "runtime a against b"


def test_precisions_that_cannot_pay() -> None:
    def decided(*objectives: str, **precision: Any) -> tuple[str, ...] | None:
        devices = {"a": {**PLAIN, "precisions": ["fp32", "int8"]}, "b": {**PLAIN, "precisions": ["bf16"]}}
        precision = {"choices": ["fp32", "int8", "bf16"], **precision}
        raw = costs_only(objectives=list(objectives), devices=devices, precision=precision, sparsity=None)
        return decide_space(load_raw(raw, source="c")).precision

    assert decided("macs", "latency_ms@a", "latency_ms@b") == ("fp32", "int8", "bf16")  # nothing is known: they may
    assert decided("stored_bytes", "latency_ms@a", "latency_ms@b") == ("fp32", "int8", "bf16")
    plan = load_raw(costs_only(objectives=["latency_ms@a"], devices={"a": PLAIN}, sparsity=None), source="c")
    probe = Probe("precision", "cnn", "int8", 1.0, 0.0, 0.9, 0.02)
    Path("devices").mkdir()
    for name in "ab":
        card = CapabilityCard(name, plan.device("a").fingerprint(), "2026-11-22", 8, (probe,))
        Path(f"devices/{name}.card.json").write_text(card.to_json())
    assert decided("macs", "latency_ms@a", "latency_ms@b") == ("fp32", "bf16")
    assert decided("macs", "latency_ms@a", "latency_ms@b", keep=["int8"]) == ("fp32", "int8", "bf16")


# ---- the run goes by what was decided ------------------------------------------------------------------------------


def searched(**changes: Any) -> dict[str, Any]:
    return costs_only(
        sparsity={"choices": SPARSE},
        objectives=["macs", "activation_bytes"],
        search={"engine": "random", "trials": 6},
        limits=[],
        **changes,
    )


class Interrupted(Silent):
    def search(self, progress: Any) -> None:
        raise KeyboardInterrupt


def test_a_run_says_freezes_and_keeps_what_was_decided(tmp_path: Path) -> None:
    seen = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        run(write(tmp_path, searched()), run_dir=tmp_path / "run", observer=seen)
    expected = "sparsity.choices: unstructured-0.9 is not searched: no objective can gain from it: none depends on it"
    assert expected in seen.notes
    stored = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert stored["sparsity"]["choices"] == SPARSE  # as the user said it
    assert stored["decided"]["sparsity"] == ["dense"]
    assert expected in stored["decided"]["dropped"]
    # Continued, with a device that could gain: decided is decided.
    more = searched(devices={"sim": KERNELS})
    more["objectives"] = ["macs", "activation_bytes", "latency_ms@sim"]
    outcome = run(write(tmp_path, more), run_dir=tmp_path / "run", observer=(again := Silent()))
    assert expected in again.notes
    assert outcome.n_trials == 6
    patterns = {value for m in outcome.members for gene, value in m.architecture.items() if gene.endswith("sparsity")}
    assert patterns == {"dense"}
    assert all(m.validated["latency_ms@sim"] > 0 for m in outcome.members)
    content = json.loads((tmp_path / "run/front.json").read_text())
    assert set(content["fronts"]) == {"sim"}
    # A fresh start with that device decides otherwise, and queries read what the folder says.
    other = run(write(tmp_path, more), run_dir=tmp_path / "other", observer=Silent())
    assert yaml.safe_load((other.folder.config).read_text())["decided"]["sparsity"] == SPARSE
    stored_plan, _ = freeze(load_raw(searched(), source="c"), RunFolder(tmp_path / "run"))
    assert stored_plan.space.size() == 36


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw["sparsity"].update(keep=["2:4"]), "its sparsity.keep was [] and is now ['2:4']"),
        (lambda raw: raw.update(precision={"choices": ["fp32"]}), "its precision was None and is now {"),
    ],
)
def test_a_decision_is_not_changed_later(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    run(write(tmp_path, searched()), run_dir=tmp_path / "run", observer=Silent())
    raw = searched()
    change(raw)
    with pytest.raises(RunFolderError) as caught:
        run(write(tmp_path, raw), run_dir=tmp_path / "run", observer=Silent())
    assert message in str(caught.value)


def test_a_decision_that_does_not_fit_its_choices() -> None:
    raw = {**searched(), "decided": {"sparsity": ["1:4"]}}
    with pytest.raises(ConfigError, match=r"decided\.sparsity must list some of the choices .* got \['1:4'\]"):
        load_raw(raw, source="c")

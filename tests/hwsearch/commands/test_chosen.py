"""`hwsearch finetune` and `hwsearch verify` on a small real run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hwsearch.cli import app
from hwsearch.commands.chosen import chosen, finetune, verify
from hwsearch.commands.query import run_plan
from hwsearch.commands.run import run
from hwsearch.commands.small_dense import SmallDense, dense_rows, nearest_below
from hwsearch.errors import UserError
from hwsearch.export.weights import decode
from hwsearch.front import load_front
from hwsearch.training.verification import Candidate, against_small_dense
from search_spaces.genes import Gene
from search_spaces.space import SearchSpace
from tests.hwsearch.runs import costs_only, digits, write


class Silent:
    def phase(self, name: str) -> None: ...
    def note(self, text: str) -> None: ...
    def training(self, progress: object) -> None: ...
    def search(self, progress: object) -> None: ...
    def validation(self, done: int, total: int) -> None: ...


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chosen")
    raw = digits(sparsity={"choices": ["unstructured-0.5", "dense", "2:4"]})
    run(write(folder, raw), run_dir=folder / "run", observer=Silent())
    return folder / "run"


def sparse_key(path: Path) -> str:
    plan, folder = run_plan(path)
    return next(m.key for m in load_front(folder) if chosen(plan, folder, m).masks)


@pytest.mark.parametrize("teacher", ["supernet", "none"])
def test_fine_tuning_makes_a_record_of_its_own(tiny: Path, teacher: str) -> None:
    key = sparse_key(tiny)
    front = (tiny / "front.json").read_bytes()
    answer = finetune(f"{tiny}:{key}", epochs=3, teacher=teacher)
    card = answer["card"]
    assert (tiny / "front.json").read_bytes() == front
    assert {"accuracy", "latency_ms@cpu", "stored_bytes", "nonzeros"} <= set(card["metrics"])
    assert card["metrics"]["accuracy"]["value"] > card["before"]["accuracy"]  # the run trains for two epochs
    assert card["metrics"]["stored_bytes"]["value"] == card["before"]["stored_bytes"]
    folder = Path(answer["folder"])
    plan, run_folder = run_plan(tiny)
    net = chosen(plan, run_folder, next(m for m in load_front(run_folder) if m.key == key))
    tensors = decode((folder / "model.sparse.safetensors").read_bytes())
    for name, mask in net.masks.items():
        assert torch.equal(tensors[name] != 0, mask)
    assert (folder / "model.onnx").stat().st_size == card["files"]["model.onnx"]["bytes"]


def test_verification_is_written_and_goes_on(tiny: Path) -> None:
    key, lines, counts = sparse_key(tiny), [], []
    content = verify(
        tiny, keys=[key], seeds=2, epochs=1, note=lines.append, progress=lambda done, n: counts.append((done, n))
    )
    assert content == json.loads((tiny / "verification.json").read_text())
    (row,) = content["nets"]
    assert row["key"] == key and len(lines) == 1 and counts == [(i, 6) for i in range(1, 7)]
    assert [c["name"] for c in row["controls"]] == ["scratch", "scratch_compute", "random_mask"]
    assert all(len(c["accuracies"]) == 2 for c in row["controls"])
    dense_key = next(m.key for m in load_front(run_plan(tiny)[1]) if m.key != key)
    more = verify(tiny, keys=[key, dense_key], seeds=2, epochs=1, progress=lambda done, n: counts.append((done, n)))
    assert more["nets"][0] == row and counts[6][0] == 7  # the first net is not verified again
    assert len(verify(tiny, keys=[key], seeds=1, epochs=1)["nets"][0]["controls"][0]["accuracies"]) == 1


def test_the_command_line_shows_every_control(tiny: Path) -> None:
    key = sparse_key(tiny)
    arguments = ["verify", str(tiny), "--key", key, "--seeds", "1", "--epochs", "1"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert any(line.startswith(f"{key}: hold-out accuracy") for line in lines)
    for control in ("scratch", "scratch_compute", "random_mask"):
        assert any(line.startswith(f"  {control}: ") and "found - control" in line for line in lines)
    assert sum("dense" in line for line in lines) == 2  # at equal non-zeros and at equal latency
    again = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(again.stdout)["nets"][0]["key"] == key


def test_small_dense_networks_cost_no_more_and_are_scored_on_the_hold_out(tiny: Path) -> None:
    plan, folder = run_plan(tiny)
    member = next(m for m in load_front(folder) if m.key == sparse_key(tiny))
    net = chosen(plan, folder, member)
    found = SmallDense(plan, folder, candidates=3)
    space = plan.space
    rows = found.rows(net.arch)
    assert 1 <= len(rows) <= 6
    for arch in space.architectures(rows):
        assert all(value == "dense" for gene, value in arch.items() if gene.endswith("sparsity"))
    twin = {gene: "dense" if gene.endswith("sparsity") else value for gene, value in net.arch.items()}
    assert space.architecture(twin) in space.architectures(rows)
    compared = {row["cost"]: row for row in found.compare(member, net.module)}
    assert set(compared) == {"nonzeros", "latency_ms@cpu"}
    for row in compared.values():
        assert row["accuracy"] == pytest.approx(member.validated["accuracy"])
        if row["dense_key"] is not None:
            assert row["dense_value"] <= 1.02 * row["value"]
            difference = row["difference"]
            assert difference["mean"] == pytest.approx(row["accuracy"] - row["dense_accuracy"])
            assert difference["low"] <= difference["mean"] <= difference["high"]


def test_dense_rows_and_the_nearest_below() -> None:
    plain = SearchSpace([Gene("width", (1, 2)), Gene("sparsity", ("2:4", "dense"))])
    rows = dense_rows(plain, plain.sample(20, np.random.default_rng(0)))
    assert {tuple(r.items()) for r in plain.architectures(rows)} == {
        (("width", w), ("sparsity", "dense")) for w in (1, 2)
    }
    never = SearchSpace([Gene("sparsity", ("2:4", "1:4"))])
    assert not len(dense_rows(never, never.sample(4, np.random.default_rng(0))))
    assert nearest_below(np.array([5.0, 1.0, 3.0, 3.0, 9.0]), 5.0, 3) == [0, 2, 3]


def test_small_dense_rows_in_closed_form() -> None:
    def net(key: str, accuracy: float, dense: bool, nonzeros: float) -> Candidate:
        return Candidate(key, accuracy, dense, {"nonzeros": nonzeros})

    nets = [net("s", 0.9, False, 100), net("a", 0.8, True, 100), net("b", 0.85, True, 101.9), net("c", 0.95, True, 103)]
    (row,) = against_small_dense([*nets, net("t", 0.5, False, 10)], keys={"s"})
    assert (row.key, row.dense_key, row.dense_value, row.dense_accuracy) == ("s", "b", 101.9, 0.85)
    (alone,) = against_small_dense([nets[0]], keys={"s"})
    assert alone.dense_key is None and alone.dense_accuracy is None


def test_mistakes_are_one_clear_line(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a net must be RUN:KEY, but got 'x'"):
        finetune("x")
    with pytest.raises(UserError, match=r"the net must be on the front \(.*\), but got 'nope'"):
        finetune(f"{tiny}:nope")
    with pytest.raises(UserError, match=r"the net must be on the front \(.*\), but got 'nope'"):
        verify(tiny, keys=["nope"])
    with pytest.raises(UserError, match="seeds and nets must be at least 1, but got 0 and 3"):
        verify(tiny, seeds=0)
    run(
        write(tmp_path, costs_only(search={"engine": "random", "trials": 3})), run_dir=tmp_path / "c", observer=Silent()
    )
    key = load_front(run_plan(tmp_path / "c")[1])[0].key
    with pytest.raises(UserError, match=r"must have data for a training, but its configuration names none"):
        finetune(f"{tmp_path / 'c'}:{key}")


def test_without_the_supernet_another_teacher_is_asked_for(tiny: Path) -> None:
    weights = tiny / "supernet.safetensors"
    kept = weights.read_bytes()
    weights.unlink()
    try:
        with pytest.raises(UserError, match=r"must be there to teach, but is not: choose --teacher original or none"):
            finetune(f"{tiny}:{sparse_key(tiny)}", epochs=1)
        with pytest.raises(UserError, match="and data must be there to score dense networks, but are not"):
            SmallDense(*run_plan(tiny))
    finally:
        weights.write_bytes(kept)

"""A user's own model through configurations: space, run, metrics, messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hwsearch import build
from hwsearch.commands.deciding import decide_space, freeze
from hwsearch.commands.query import space
from hwsearch.commands.run import run
from hwsearch.config import DecidedSection
from hwsearch.data.named_callables import load_callable
from hwsearch.devices.card import CapabilityCard
from hwsearch.errors import ConfigError, UserError
from hwsearch.own_model import agreement, user_scorer
from hwsearch.runfolder import RunFolder
from hwsearch.training.supernet_training import train
from search_spaces.from_model import FromModel
from tests.hwsearch.own_model import user_model
from tests.hwsearch.runs import Silent

HERE = Path(__file__).parent
USER = str(HERE / "user_model.py")


def raw(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "name": "own",
        "supernet": {
            "family": "from_model",
            "params": {"model": f"{USER}:build", "ratios": [0.5], "repair": "least_squares"},
        },
        "data": {"name": "callables", **{s: f"{USER}:{s}" for s in ("train", "search", "holdout")}},
        "evaluation": {"task": "fidelity", "fidelity": "logits"},
        "objectives": ["fidelity", "macs"],
        "search": {"engine": "random", "trials": 4},
        "executor": {"kind": "serial"},
    }
    return {**config, **changes}


def written(tmp_path: Path, **changes: Any) -> Path:
    import yaml

    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(raw(**changes)))
    return path


def test_a_model_without_labels_is_searched_and_exported(tmp_path: Path) -> None:
    outcome = run(written(tmp_path), run_dir=tmp_path / "run", observer=Silent())
    assert outcome.n_trials == 4 and outcome.n_failed == 0
    whole = max(outcome.members, key=lambda m: m.metrics["macs"])
    # Not exactly 1: its BatchNorm has the statistics of the calibration data, the original's are those of no data.
    assert whole.metrics["fidelity"] == pytest.approx(1.0, abs=2e-3)
    assert whole.validated["fidelity"] == pytest.approx(1.0, abs=2e-3)
    assert (outcome.folder.models / whole.key / "model.onnx").is_file()


def test_the_users_own_metric_and_no_data(tmp_path: Path) -> None:
    config = raw(
        evaluation={"function": f"{USER}:outputs_norm"},
        objectives=[{"metric": "norm", "direction": "maximize"}, "macs"],
    )
    del config["data"]
    config["supernet"]["params"]["example"] = f"{USER}:example"
    made = build.load_raw(config, source="test")
    assert made.needs_network and made.weights_are == "of the given model"
    worker = build.Factory(config).accuracy(made.supernet().to_arrays())
    from hwsearch.distribution.executor import EvaluateJob

    row = made.space.row(made.space.largest())
    evaluation, _ = worker.evaluate(EvaluateJob(0, row))
    assert evaluation.error is None and evaluation.metrics["size"] == 24
    module = made.supernet().extract(made.space.largest())
    assert evaluation.metrics["norm"] == pytest.approx(user_scorer(f"{USER}:outputs_norm")(module, "search")["norm"])


def test_space_says_what_stays_fixed_and_why(tmp_path: Path) -> None:
    answer = space(written(tmp_path))
    assert [g["name"] for g in answer["genes"]] == ["body.0.width", "hidden.width"]
    assert answer["fixed"] == [{"layer": "head", "channels": 3, "of": 3, "reason": "is an output of the model"}]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nothing", "model must be module:function or file.py:function, but got 'nothing'"),
        ("missing.py:f", "model must name a Python file, but .*missing.py does not exist"),
        ("no_such_module:f", "model must name a module that can be imported, but there is no 'no_such_module'"),
        (f"{USER}:nobody", r"model must name a function of .*user_model.py .*, but got 'nobody'"),
    ],
)
def test_references_that_name_nothing(reference: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_callable(reference, "model")


def test_an_importable_module() -> None:
    assert load_callable("math:sqrt", "model")(4.0) == 2.0


def test_configurations_that_are_wrong() -> None:
    def model(**changes: Any) -> dict[str, Any]:
        return {"supernet": {"family": "from_model", "params": {**raw()["supernet"]["params"], **changes}}}

    def data(**changes: Any) -> dict[str, Any]:
        return {"data": {**raw()["data"], **changes}}

    mlp = {"supernet": {"family": "mlp", "params": {"hidden": [[4, 8]]}}}
    cases = [
        (model(model=f"{USER}:no_module"), "must return a torch module, but got int"),
        (model(repair="glue"), "repair must be one of .*, but got 'glue'"),
        (model(importance="wanda"), "importance 'wanda' must have calibration data"),
        (data(train=f"{USER}:flat"), r"data.train must return inputs .* but got \(5,\)"),
        (data(train=f"{USER}:small"), "data must have inputs of one shape"),
        ({"evaluation": {"function": f"{USER}:nobody"}}, "evaluation.function must name a function"),
        (mlp, "evaluation.task must be 'classification' unless the model is given, but mlp"),
    ]
    for changes, message in cases:
        with pytest.raises(ConfigError, match=message):
            build.load_raw(raw(**changes), source="test")


def test_no_example_and_no_data() -> None:
    config = raw(objectives=["macs"])
    del config["data"]
    with pytest.raises(ConfigError, match="example must be given when there are no data"):
        build.load_raw(config, source="test")


def test_a_function_that_returns_no_dict() -> None:
    with pytest.raises(UserError, match="must return a dict of metrics, but got float"):
        user_scorer(f"{USER}:no_dict")(nn.Identity(), "search")


def test_agreement_in_closed_form() -> None:
    a = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[0.0, np.log(3.0)], [0.0, np.log(3.0)]])
    # KL of (1/2, 1/2) and (1/4, 3/4): log 2 - log(3)/2
    assert agreement(a, b.float(), kind="logits") == pytest.approx(np.sqrt(3) / 2, rel=1e-5)
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    assert agreement(x, 3 * x, kind="embeddings") == pytest.approx(1.0)
    assert agreement(x, x[:, [1, 0]], kind="embeddings") == pytest.approx(1 / 3)
    assert agreement(x, 3 * x, kind="similarities") == pytest.approx(1.0)


def test_kept_channels_are_what_the_devices_card_prefers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # cards are looked for in the working directory
    config = raw(objectives=["fidelity", "latency_ms@sim"], devices={"sim": {"runtime": "simulated"}})
    config["supernet"]["params"]["ratios"] = [0.25, 0.5, 0.75]

    def widths(config: dict[str, Any]) -> tuple[set[int], DecidedSection]:
        plan = build.load_raw(config, source="c")
        decided = decide_space(plan)
        plan, _ = freeze(plan, RunFolder(tmp_path / "run"))
        return {int(c) for gene in plan.space.genes if gene.name.endswith("width") for c in gene.choices}, decided

    before, decided = widths(config)
    assert decided.channel_multiple is None
    fingerprint = build.load_raw(config, source="c").device("sim").fingerprint()
    Path("devices").mkdir()
    Path("devices/sim.card.json").write_text(CapabilityCard("sim", fingerprint, "2026-11-22", 4, ()).to_json())
    after, decided = widths(config)
    assert decided.channel_multiple == 4
    assert decided.dropped == ("supernet.params.multiple: 4, because multiples of these channels are fast: 4 on sim",)
    assert after != before and all(width % 4 == 0 for width in after)
    config["supernet"]["params"]["multiple"] = 1  # what the user says counts
    assert widths(config)[0] == before


def test_a_supernetwork_trains_from_the_given_weights(tmp_path: Path) -> None:
    training = {"epochs": 4, "batch_size": 8, "learning_rate": 0.01, "n_random": 1, "warmup_epochs": 0.0}
    made = build.load_raw(raw(training=training), source="test")
    assert isinstance(made.family, FromModel) and made.dataset is not None
    net, x = made.supernet(), torch.from_numpy(user_model.train())
    whole, smallest = net.space.largest(), net.space.smallest()
    original = made.family.captured.module
    with torch.no_grad():
        assert torch.equal(net.extract(whole).eval()(x), original.eval()(x))
    before = {name: array.copy() for name, array in net.to_arrays().items()}
    given = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    result = train(net, made.dataset, made.training())
    assert result.epoch_losses[-1] < result.epoch_losses[0]
    after = net.to_arrays()
    weights = [name for name in before if name.endswith("weight")]
    assert len(weights) == 4 and all(not np.array_equal(before[name], after[name]) for name in weights)
    for arch in (whole, smallest):  # what is extracted now is what was trained
        inside = net.extract(arch).state_dict()["hidden.weight"]
        assert not any(torch.equal(row, old) for row in inside for old in given["hidden.weight"][:, : inside.shape[1]])
    assert all(torch.equal(given[name], tensor) for name, tensor in original.state_dict().items())  # the user's stays


def test_a_run_that_trains_first(tmp_path: Path) -> None:
    training = {"epochs": 1, "batch_size": 8, "n_random": 1}
    path = written(tmp_path, training=training, search={"engine": "random", "trials": 2})
    outcome = run(path, run_dir=tmp_path / "run", observer=Silent())
    assert outcome.n_trials == 2 and outcome.n_failed == 0

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from hwsearch import build, checkpoints
from hwsearch.build import Factory, Plan, registry, sections
from hwsearch.config import set_path
from hwsearch.construct import construct
from hwsearch.devices.base import Device
from hwsearch.engines.base import SearchEngine
from hwsearch.errors import ConfigError, UserError
from hwsearch.export.base import Exporter
from search_spaces.supernet import Family, SparsityGenes
from tests.hwsearch.runs import costs_only, digits

STAGES = [{"width": [8, 16], "depth": [1, 2]}, {"width": [16, 24], "depth": [1, 2]}]


def problems(raw: dict[str, Any]) -> list[str]:
    """Returns the lines of what is wrong, without the source."""
    with pytest.raises(ConfigError) as caught:
        build.load_raw(raw, source="c.yaml")
    first, *rest = str(caught.value).splitlines()
    if not rest:
        return [first.removeprefix("c.yaml: ")]
    assert first == f"c.yaml: {len(rest)} problems:"
    return [line.removeprefix("  - ") for line in rest]


def changed(raw: dict[str, Any], *overrides: str) -> dict[str, Any]:
    for override in overrides:
        set_path(raw, override)
    return raw


# ---- the tables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", registry.GROUPS)
def test_every_entry_of_every_table_is_there(group: str) -> None:
    base = {"families": Family, "engines": SearchEngine, "devices": Device, "exporters": Exporter}.get(group)
    for name in registry.GROUPS[group]:
        target = registry.named(group, name, "somewhere")
        assert callable(target)
        if base is not None and inspect.isclass(target):  # a family may be made by a function
            assert issubclass(target, base)
            assert not inspect.isabstract(target)


def test_every_format_of_a_device_has_an_exporter() -> None:
    for name in registry.DEVICES:
        for fmt in registry.named("devices", name, "somewhere").formats[:1]:
            assert registry.named("exporters", fmt, "somewhere").format == fmt


def test_names_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "theirs"

        def load(self) -> type:
            return int

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()] if group == "hwsearch.engines" else [])
    assert registry.named("engines", "theirs", "search.engine") is int
    with pytest.raises(ConfigError, match=r"search.engine must be one of .*'theirs'.*, but got 'their' \(nearest: 'th"):
        registry.named("engines", "their", "search.engine")


# ---- what is wrong with a configuration, one line each -------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("supernet.family=mlpp", "(nearest: 'mlp')."),
        ("supernet.params.hiden=[[8]]", "supernet.params.hiden is not known (nearest: 'hidden')."),
        ("supernet.params={}", "supernet.params.hidden is missing."),
        ("supernet.params.hidden=5", "supernet.params.hidden must be a list, but got 5."),
        ("supernet.params.hidden=[[a]]", "supernet.params.hidden.0.0 must be a whole number, but got 'a'."),
        ("supernet.params.hidden=[[]]", "supernet.params: hidden must list at least one positive node count per layer"),
        ("supernet.params.hidden=[[8, 8]]", "supernet.params: gene 'layer1.nodes' must have distinct choices"),
        (
            "supernet.params.input_shape=[1, 9, 9]",
            "supernet.params.input_shape must be the data's (1, 16, 16), but got (1, 9, 9).",
        ),
        ("sparsity.choices=[dense, sparse]", "sparsity.choices: a sparsity pattern must be 'dense', 'unstructured-P'"),
        ("sparsity.choices=[dense, dense]", "sparsity.choices: gene 'layer1.sparsity' must have distinct choices"),
        ("sparsity.choices=[unstructured-1.5]", "sparsity.choices: unstructured sparsity must be between 0 and 1"),
        ("data.name=digit", "(nearest: 'digits')."),
        ("data.sise=8", "data.sise is not known (nearest: 'size')."),
        ("data.size=33", "data.size: digits size must be a multiple of 8, but got 33."),
        ("data={}", "data.name is missing."),
        ("data.limit=4", "data: the holdout split must have at least one row, but 4 rows are too few for it."),
        ("data=", "data must be given when an objective needs a trained network, but there is no such section."),
        (
            "data={name: image_folder, path: /nowhere}",
            "data: data.path of image_folder must be a folder with",
        ),
        ("data={name: cifar10, path: /nowhere}", "/nowhere"),
        ("training.epoch=3", "training.epoch is not known (nearest: 'epochs')."),
        ("training.epochs=0", "training.epochs must be at least 1, but got 0."),
        ("training.optimizer=adam", "training.optimizer must be 'adamw' or 'sgd', but got 'adam' (nearest: 'adamw')."),
        ("training.batch_size=5000", "training.batch_size must be at most the 1079 examples of the train split"),
        (
            "executor={kind: ray, training: {workers: 7}}",
            "training.batch_size must be a multiple of executor.training.workers = 7, but got",
        ),
        (
            "training.aggregation=flag",
            "executor.training.workers must be at least 3 for training.aggregation: flag, but got 1.",
        ),
        ("training.aggregation=best", "training.aggregation must be"),
        ("training.n_faulty=0", "training.n_faulty must be at least 1, but got 0."),
        ("executor.training.workers=0", "executor.training.workers must be at least 1, but got 0."),
        (
            "executor={kind: serial, training: {workers: 2}}",
            "executor.kind must be ray where executor.training.workers is given, but got 'serial'.",
        ),
        ("training=", "training (or supernet.weights) must be given when an objective needs a trained network."),
        ("objectives.0=accurcy", "but got 'accurcy' (nearest: 'accuracy')."),
        ("objectives.1=latency_ms", "objectives.1: latency_ms must name its device, as in latency_ms@cpu."),
        (
            "objectives.1=latency_ms@cpuu",
            "objectives.1: latency_ms@cpuu must name a device of this config (['cpu']), "
            "but got 'cpuu' (nearest: 'cpu').",
        ),
        (
            "objectives.1=energy_mj@cpu",
            "objectives.1: energy_mj@cpu must be something that the device measures (['latency_ms']), "
            "but got 'energy_mj'.",
        ),
        ("objectives.1=accuracy@cpu", "objectives.1: accuracy@cpu must be something that the device measures"),
        ("objectives.1=accuracy", "objectives.1: accuracy must occur once."),
        (
            "objectives.0={metric: accuracy, min: 0.1, max: 3}",
            "objectives.0: accuracy must have one limit, min or max, but got both.",
        ),
        ("limits=[accuracy]", "limits.0: accuracy must give min or max."),
        ("limits=[{metric: latency_ms@tpu, max: 1}]", "limits.0: latency_ms@tpu must name a device of this config"),
        ("devices.cpu.runtime=onnx_runtime", "(nearest: 'onnxruntime')."),
        ("devices.cpu.thread=1", "devices.cpu.thread is not known (nearest: 'threads')."),
        ("devices.cpu.threads=0", "devices.cpu.threads must be at least 1, but got 0."),
        ("devices.cpu.name=x", "devices.cpu.name is not known."),
        ("devices.cpu.precisions=[]", "devices.cpu.precisions must be a list of at least 1, but got []."),
        ("devices.cpu.precisions=[fp8]", "devices.cpu.precisions must be of ["),
        ("devices.cpu.options={spin: 1}", "devices.cpu: device cpu: runtime onnxruntime has no option 'spin'"),
        ("devices.cpu={clock: cpu, threads: 2}", "devices.cpu: clock 'cpu' must be used with threads: 1"),
        ("devices.a b={runtime: analytic}", "devices.a b must be a string of the form ^[A-Za-z0-9_.-]+$"),
        ("search.engine=optuna", "search.engine must be 'optuna:<algorithm>', but got 'optuna'."),
        ("search.engine=paretto", "(nearest: 'pareto')."),
        ("search.options.popluation=4", "search.options.popluation is not known (nearest: 'population')."),
        ("search.options.population=1", "search.options: engine.population must be at least 2, but got 1."),
        ("search.options.seed=1", "search.options.seed is not known."),
        ("executor={kind: ray, workers: 999}", "executor.workers must be at most the "),
    ],
)
def test_one_problem_is_one_line(override: str, problem: str) -> None:
    (line,) = problems(changed(digits(), override))
    assert problem in line


def test_parts_of_parts_have_paths_and_hints() -> None:
    def mobilenet(*overrides: str) -> list[str]:
        raw = digits(supernet={"family": "mobilenet", "params": {"stages": [dict(s) for s in STAGES]}})
        return problems(changed(raw, *overrides))

    assert mobilenet("supernet.params.stages.1.widht=[8]") == [
        "supernet.params.stages.1.widht is not known (nearest: 'width')."
    ]
    assert mobilenet("supernet.params.stages.0.kernel=[2]") == [
        "supernet.params.stages.0: stage.kernel must be odd, but got [2]."
    ]
    assert mobilenet("supernet.params.stages.0.width=16") == [
        "supernet.params.stages.0.width must be a list, but got 16."
    ]
    assert mobilenet("supernet.params.stages=[]") == ["supernet.params: stages must not be empty."]
    assert mobilenet("supernet.params.stages.0=wide") == ["supernet.params.stages.0 must be a mapping, but got 'wide'."]


def test_all_problems_at_once() -> None:
    """Of the general shape, of names, and of things that only their own classes know."""
    raw = changed(
        digits(),
        "nmae=x",
        "search.trials=many",
        "search.engine=nsga",
        "supernet.family=mlpp",
        "data.name=digit",
        "devices.cpu.thread=1",
        "training.epoch=1",
        "sparsity.choices=[sparse]",
        "objectives.2=stored_byte",
        "limits=[accuracy]",
    )
    starts = (
        "search.trials must be",
        "nmae is not known",
        "limits.0: accuracy must give",
        "data.name must be",
        "supernet.family must be",
        "sparsity.choices: a sparsity",
        "devices.cpu.thread is not",
        "objectives.2: the metric must",
        "search.engine must be",
        "training.epoch is not",
    )
    found = problems(raw)
    assert len(found) == len(starts)
    for start in starts:
        assert sum(line.startswith(start) for line in found) == 1


def test_nothing_is_said_about_what_follows_from_a_bad_part() -> None:
    assert problems(changed(digits(), "devices.cpu=")) == ["devices.cpu must be a mapping, but got None."]
    assert problems(changed(digits(), "devices=5")) == ["devices must be a mapping, but got 5."]
    assert problems(changed(digits(), "data=5")) == ["data must be a mapping, but got 5."]
    assert problems(changed(digits(), "training=5")) == ["training must be a mapping, but got 5."]
    assert problems(changed(digits(), "objectives=5")) == ["objectives must be a list, but got 5."]
    assert problems(changed(digits(), "supernet=5")) == ["supernet must be a mapping, but got 5."]


def test_a_family_without_layers_that_may_be_sparse() -> None:
    class Fixed(registry.named("families", "mlp", "x")):  # type: ignore[misc]
        def layers(self, columns: Any) -> Any:
            from dataclasses import replace

            return [replace(layer, prunable=False) for layer in super().layers(columns)]

    family = Fixed(input_shape=(1, 8, 8), n_classes=10, hidden=[[4, 8]])
    with pytest.raises(ConfigError, match="sparsity must apply to at least one layer"):
        sections.space_of(family, SparsityGenes(("dense", "unstructured-0.5")), ())


# ---- what a good one becomes ---------------------------------------------------------------------------------------


def test_plan_of_a_run() -> None:
    made = build.load_raw(digits(limits=[{"metric": "parameters", "max": 9000}]), source="c.yaml")
    assert [o.name for o in made.objectives] == ["accuracy", "latency_ms@cpu", "stored_bytes"]
    assert [o.name for o in made.limits] == ["parameters"]
    assert made.measured == ("cpu",)
    assert made.needs_network
    assert made.space.size() == 81
    assert made.engine().n_objectives == 3


def test_devices_that_nothing_refers_to_are_not_measured() -> None:
    raw = digits(devices={"cpu": {}, "spare": {"runtime": "simulated"}})
    assert build.load_raw(raw, source="c").measured == ("cpu",)
    raw["limits"] = [{"metric": "latency_ms@spare", "max": 5}]
    assert build.load_raw(raw, source="c").measured == ("cpu", "spare")


def test_exact_losses_fill_the_columns_that_need_no_evaluation() -> None:
    raw = digits(objectives=["accuracy", {"metric": "macs", "direction": "maximize"}, "stored_bytes"])
    made = build.load_raw(raw, source="c")
    rows = made.space.sample(5, np.random.default_rng(0))
    exact = made.exact()(rows)
    costs = made.supernet(meta=True).costs(rows)
    assert np.isnan(exact[:, 0]).all()
    assert (exact[:, 1] == -costs.macs).all()
    assert (exact[:, 2] == costs.stored_bytes).all()


def test_factory_makes_workers_from_plain_data() -> None:
    import pickle

    raw = build.load_raw(digits(), source="c").config.to_dict()
    factory = pickle.loads(pickle.dumps(Factory(raw)))
    made = build.load_raw(raw, source="c")
    supernet = made.supernet()
    arrays = supernet.to_arrays()
    for array in arrays.values():
        array.flags.writeable = False  # as they come from the object store
    worker = factory.accuracy(arrays)
    from hwsearch.distribution.jobs import EvaluateJob, MeasureJob

    row = made.space.row(made.space.largest())
    evaluation, artifacts = worker.evaluate(EvaluateJob(0, row))
    assert evaluation.error is None
    assert 0 <= evaluation.metrics["accuracy"] <= 1
    assert artifacts["cpu"].format == "onnx"
    (result,) = factory.lane("cpu").measure(MeasureJob("cpu", (0,), (artifacts["cpu"],)))
    assert result["latency_ms"].value > 0


def test_workers_write_nothing_through_the_shared_weights() -> None:
    from hwsearch.distribution.jobs import EvaluateJob

    stage = {"width": [8, 16], "depth": [1, 2], "kernel": [3, 5], "expand": [1, 2]}
    params = {"stem": 8, "head": 16, "stages": [stage]}  # with BatchNorm, whose statistics are made anew
    raw = digits(supernet={"family": "mobilenet", "params": params}, data={"name": "digits", "size": 8})
    made = build.load_raw(raw, source="c")
    supernet = made.supernet()
    arrays = supernet.to_arrays()
    before = {name: array.tobytes() for name, array in arrays.items()}
    worker = Factory(made.config.to_dict()).accuracy(arrays)
    for i, arch in enumerate((made.space.largest(), made.space.smallest())):
        evaluation, artifacts = worker.evaluate(EvaluateJob(i, made.space.row(arch), split="holdout"))
        assert evaluation.error is None
        assert "weights" in artifacts
    assert {name: array.tobytes() for name, array in arrays.items()} == before


# ---- weights -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan() -> Plan:
    return build.load_raw(costs_only(), source="c")


def save(plan: Plan, path: Path, **changes: Any) -> None:
    tensors = {name: tensor.detach().clone() for name, tensor in plan.supernet().tensors().items()}
    safetensors.torch.save_file({**tensors, **changes}, path)


def test_weights_are_loaded(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save(plan, path, **{"classifier.bias": torch.arange(10.0)})
    supernet = plan.supernet()
    checkpoints.load_weights(supernet, path)
    assert supernet.tensors()["classifier.bias"].tolist() == list(range(10))


def test_broken_and_foreign_weights(plan: Plan, tmp_path: Path) -> None:
    supernet = plan.supernet()
    before = {name: tensor.clone() for name, tensor in supernet.tensors().items()}
    path = tmp_path / "w.safetensors"
    with pytest.raises(UserError, match=r"nowhere\.safetensors"):
        checkpoints.load_weights(supernet, tmp_path / "nowhere.safetensors")
    save(plan, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=str(path)):
        checkpoints.load_weights(supernet, path)
    save(plan, path, **{"classifier.bias": torch.zeros(11)})
    with pytest.raises(UserError, match=r"classifier\.bias: must be \(10,\), but got \(11,\)"):
        checkpoints.load_weights(supernet, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.tensors().items())


# ---- construct -----------------------------------------------------------------------------------------------------


class Thing:
    def __init__(self, *, size: int, factor: float = 1.0, given: str = "") -> None:
        if size > 9:
            raise ValueError(f"size must be at most 9, but got {size}.")
        self.size, self.factor, self.given = size, factor, given


def test_construct_checks_names_and_types_first() -> None:
    thing = construct(Thing, {"size": 3, "factor": "1e-3"}, where="t", given={"given": "g"})
    assert (thing.size, thing.factor, thing.given) == (3, 0.001, "g")
    with pytest.raises(ConfigError, match=r"^t\.given is not known\.$"):
        construct(Thing, {"size": 3, "given": "h"}, where="t", given={"given": "g"})
    with pytest.raises(ConfigError, match=r"^t: size must be at most 9, but got 10\.$"):
        construct(Thing, {"size": 10}, where="t", given={})
    with pytest.raises(ConfigError) as caught:
        construct(Thing, {"sise": 3, "factor": "x"}, where="t", given={})
    assert str(caught.value).splitlines() == [
        "t.sise is not known (nearest: 'size').",
        "t.size is missing.",
        "t.factor must be a number, but got 'x'.",
    ]

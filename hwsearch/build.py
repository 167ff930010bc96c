"""Names from a configuration become objects here, and nowhere else."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from hwsearch import config as configuration
from hwsearch.config import RunConfig, describe, nearest
from hwsearch.data.dataset import Dataset
from hwsearch.devices.base import Device, DeviceSpec
from hwsearch.distribution.executor import AccuracyWorker, Executor, LaneWorker, Limits
from hwsearch.distribution.workers import DeviceLane, NetworkWorker
from hwsearch.engines.base import ExactLosses, SearchEngine
from hwsearch.errors import ConfigError, MissingExtraError, UserError
from hwsearch.export.base import Exporter
from hwsearch.objectives import COST_METRICS, DEVICE_METRICS, QUALITY_METRICS, Objective
from search_spaces.published import Checkpoint, CheckpointError, from_published, read_checkpoint
from search_spaces.space import Population, SearchSpace
from search_spaces.supernet import Family, SparsityGenes, Supernet

# Plain tables: name -> "module:attribute". Third parties add to them through entry points of the named groups.

FAMILIES = {
    "mlp": "search_spaces.mlp:MLP",
    "mobilenet": "search_spaces.mobilenet:MobileNet",
    "ofa_mobilenet_v3": "search_spaces.ofa_networks:OfaMobilenetV3",
    "ofa_proxyless": "search_spaces.ofa_networks:OfaProxyless",
    "ofa_resnet50": "search_spaces.ofa_resnet50:OfaResNet50",
    "bert": "search_spaces.bert:Bert",
    "vit": "search_spaces.vit:ViT",
}
DATA = {
    "digits": "hwsearch.data.digits:DigitsSpec",
    "synthetic": "hwsearch.data.synthetic:SyntheticSpec",
    "cifar10": "hwsearch.data.cifar:Cifar10Spec",
    "cifar100": "hwsearch.data.cifar:Cifar100Spec",
    "image_folder": "hwsearch.data.image_folder:ImageFolderSpec",
}
ENGINES = {
    "random": "hwsearch.engines.random_search:RandomSearch",
    "nsga2": "hwsearch.engines.nsga2:NSGA2",
}
DEVICES = {
    "onnxruntime": "hwsearch.devices.onnxruntime_device:OnnxRuntimeDevice",
    "torch": "hwsearch.devices.torch_device:TorchDevice",
    "analytic": "hwsearch.devices.analytic_device:AnalyticDevice",
    "simulated": "hwsearch.devices.simulated_device:SimulatedDevice",
}
EXPORTERS = {
    "onnx": "hwsearch.export.onnx_exporter:OnnxExporter",
    "torch": "hwsearch.export.torch_exporter:TorchExporter",
}
EXECUTORS = {
    "ray": "hwsearch.distribution.ray_executor:RayExecutor",
    "serial": "hwsearch.distribution.serial:SerialExecutor",
}
GROUPS = {"families": FAMILIES, "data": DATA, "engines": ENGINES, "devices": DEVICES, "exporters": EXPORTERS}


def named(group: str, name: str, where: str) -> Any:
    """Returns the object behind a name of a table or of the entry points `hwsearch.<group>`.

    Raises:
        ConfigError: unknown name; shows the nearest.
    """
    table = GROUPS[group]
    if name in table:
        module, _, attribute = table[name].partition(":")
        return getattr(import_module(module), attribute)
    others = {point.name: point for point in entry_points(group=f"hwsearch.{group}")}
    if name in others:
        return others[name].load()
    known = sorted([*table, *others])
    raise ConfigError(f"{where} must be one of {known}, but got {name!r}{nearest(name, known)}.")


def construct(target: Callable[..., Any], params: Mapping[str, Any], *, where: str, given: Mapping[str, Any]) -> Any:
    """Returns `target(**given, **params)`; the user's `params` are checked against its signature.

    Args:
        target: a pydantic model or a class with annotated keyword arguments.
        params: from the configuration.
        where: path of `params` in the configuration.
        given: arguments that the configuration cannot set.

    Raises:
        ConfigError: all unknown, missing or wrong parameters at once.
    """
    is_model = isinstance(target, type) and issubclass(target, BaseModel)
    schema: Any = target if is_model else _schema(target, given)
    names = [n for n in schema.model_fields if n not in given]
    problems = [f"{where}.{k} is not known{nearest(k, names)}." for k in params if k not in names]
    known = {k: v for k, v in params.items() if k in names}
    try:
        if is_model:
            made = target(**given, **known)
        else:
            checked = schema(**known)
            made = target(**given, **{name: getattr(checked, name) for name in known})
    except ValidationError as error:
        problems += [p for p in describe(error, where, names) if not p.endswith("is not known.") or "." in p]
    except (ValueError, TypeError) as error:
        problems.append(f"{where}: {' '.join(str(error).split())}")
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return made


def _schema(target: Callable[..., Any], given: Mapping[str, Any]) -> type[BaseModel]:
    """Returns a pydantic model of the annotated arguments of a class that are not `given`."""
    hints = get_type_hints(getattr(target, "__init__") if isinstance(target, type) else target)  # noqa: B009
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if name not in given:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (hints.get(name, Any), default)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an argument may be called like a method of pydantic models
        config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")
        return create_model("Arguments", __config__=config, **fields)


@dataclass(frozen=True)
class Plan:
    """A configuration whose names are objects; light things are made, heavy ones are made on request."""

    config: RunConfig
    objectives: tuple[Objective, ...]
    limits: tuple[Objective, ...]
    devices: Mapping[str, DeviceSpec]
    device_types: Mapping[str, type[Device]]
    dataset: Dataset | None
    family: Family
    sparsity: SparsityGenes | None
    space: SearchSpace

    @property
    def measured(self) -> tuple[str, ...]:
        """Devices that an objective or a limit needs, in the config's order."""
        needed = {o.device for o in (*self.objectives, *self.limits)}
        return tuple(name for name in self.devices if name in needed)

    @property
    def needs_network(self) -> bool:
        """Whether an objective or limit needs trained weights."""
        return any(o.metric in QUALITY_METRICS for o in (*self.objectives, *self.limits))

    def supernet(self, *, meta: bool = False) -> Supernet:
        """Returns the super-network with its initial weights, or without storage."""
        return Supernet(self.family, sparsity=self.sparsity, seed=self.config.seed, meta=meta)

    def exact(self) -> ExactLosses:
        """Returns the function that computes the losses that need no evaluation (NaN in other columns)."""
        return ExactCosts(self.supernet(meta=True), self.objectives)

    def engine(self) -> SearchEngine:
        """Returns the search engine."""
        section = self.config.search
        engine: SearchEngine = construct(
            named("engines", section.engine, "search.engine"),
            section.options,
            where="search.options",
            given={
                "space": self.space,
                "n_objectives": len(self.objectives),
                "seed": self.config.seed,
                "exact": self.exact(),
            },
        )
        return engine

    def device(self, name: str, *, reference_ms: float | None = None) -> Device:
        """Returns a device, with its reference value frozen if it is known."""
        spec = self.devices[name]
        if reference_ms is not None and spec.reference_ms is None:
            spec = spec.model_copy(update={"reference_ms": reference_ms})
        return self.device_types[name](spec)

    def exporter(self, name: str) -> tuple[Exporter | None, str]:
        """Returns the exporter and precision of what a device measures; no exporter where costs suffice."""
        formats, precision = self.device_types[name].formats, self.devices[name].precisions[0]
        return (named("exporters", formats[0], "exporter")() if formats else None), precision

    def training(self) -> Any:
        """Returns the frozen training settings, or None."""
        if self.config.training is None:
            return None
        target = import_module("hwsearch.training.config").TrainingConfig
        return construct(target, {"seed": self.config.seed, **self.config.training}, where="training", given={})

    def executor(self, factory: Any, weights: dict[str, NDArray[Any]] | None, *, ledger: Path) -> Executor:
        """Returns the executor with its workers started."""
        section = self.config.executor
        limits = Limits(section.retries, section.timeout_s, section.lane_batch, section.lane_wait_s)
        lanes = [(name, self.device_types[name].exclusive) for name in self.measured]
        module, _, attribute = EXECUTORS[section.kind].partition(":")
        make = getattr(import_module(module), attribute)
        if section.kind == "ray":
            make = partial(make, n_workers=section.workers, address=section.address, ledger=ledger)
        executor: Executor = make(factory, weights, devices=lanes, limits=limits)
        return executor


class ExactCosts:
    """Losses of a population that follow from exact costs alone; picklable and pure."""

    def __init__(self, supernet: Supernet, objectives: tuple[Objective, ...]) -> None:
        self._supernet, self._objectives = supernet, objectives

    def __call__(self, population: Population) -> NDArray[np.float64]:
        """Returns losses (n, m); NaN where a column needs an evaluation or a device."""
        out = np.full((len(population), len(self._objectives)), np.nan)
        if not any(o.metric in COST_METRICS for o in self._objectives):
            return out
        for start in range(0, len(population), 8192):
            costs = self._supernet.costs(population[start : start + 8192])
            for j, objective in enumerate(self._objectives):
                if objective.metric in COST_METRICS:
                    out[start : start + 8192, j] = objective.sign * getattr(costs, objective.metric)
        return out


def plan(config: RunConfig, *, source: str = "config") -> Plan:
    """Returns the plan of a configuration.

    Raises:
        ConfigError: all problems at once.
    """
    problems: list[str] = []

    def attempt(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except ConfigError as error:
            problems.extend(str(error).splitlines())
        except (MissingExtraError, UserError, ValueError) as error:
            problems.append(str(error))
        return None

    dataset = attempt(lambda: _dataset(config)) if config.data is not None else None
    family = attempt(lambda: _family(config, dataset))
    sparsity = None
    if config.sparsity is not None:
        section = config.sparsity
        sparsity = attempt(lambda: SparsityGenes(section.choices, per=section.per))
    devices: dict[str, DeviceSpec] = {}
    types: dict[str, type[Device]] = {}
    for name, raw in config.devices.items():
        where = f"devices.{name}"
        spec = attempt(partial(construct, DeviceSpec, raw, where=where, given={"name": name}))
        if spec is not None:
            kind = attempt(partial(named, "devices", spec.runtime, f"{where}.runtime"))
            if kind is not None:
                devices[name], types[name] = spec, kind
    objectives, limits = config.tracked()
    problems += _objective_problems(config, (*objectives, *limits), types, failed=bool(problems))
    space = None
    if family is not None and (sparsity is not None or config.sparsity is None):
        space = attempt(lambda: Supernet(family, sparsity=sparsity, meta=True).space)
        if space is not None and sparsity is not None and space == family.space:
            problems.append("sparsity must apply to at least one layer, but no layer of this family may be sparse.")
    if space is not None and not problems:
        made = Plan(config, objectives, limits, devices, types, dataset, family, sparsity, space)
        attempt(made.engine)
        attempt(made.training)
        if made.needs_network and config.supernet.weights is None and config.training is None:
            problems.append("training (or supernet.weights) must be given when an objective needs a trained network.")
    configuration.raise_problems(list(dict.fromkeys(problems)), source)
    assert space is not None
    return made


def _dataset(config: RunConfig) -> Dataset:
    raw = dict(config.data or {})
    name = raw.pop("name", None)
    if name is None:
        raise ConfigError("data.name is missing.")
    spec = construct(named("data", name, "data.name"), raw, where="data", given={})
    try:
        dataset: Dataset = spec.open()
    except UserError as error:
        raise ConfigError(f"data: {error}") from error
    return dataset


def _family(config: RunConfig, dataset: Dataset | None) -> Family:
    target = named("families", config.supernet.family, "supernet.family")
    names = inspect.signature(target).parameters
    params = dict(config.supernet.params)
    if dataset is not None:
        if "input_shape" in names:
            params.setdefault("input_shape", dataset.input_shape)
        if "n_classes" in names:
            params.setdefault("n_classes", dataset.n_classes)
    family: Family = construct(target, params, where="supernet.params", given={})
    if dataset is not None and tuple(family.input_shape) != tuple(dataset.input_shape):
        raise ConfigError(
            f"supernet.params.input_shape must be the data's {tuple(dataset.input_shape)}, "
            f"but got {tuple(family.input_shape)}."
        )
    return family


def _objective_problems(
    config: RunConfig, tracked: tuple[Objective, ...], types: Mapping[str, type[Device]], *, failed: bool
) -> list[str]:
    problems = []
    seen: set[str] = set()
    for i, objective in enumerate(tracked[: len(config.objectives)]):
        if objective.name in seen:
            problems.append(f"objectives.{i}: {objective.name} must occur once.")
        seen.add(objective.name)
    known = [*COST_METRICS, *DEVICE_METRICS, *QUALITY_METRICS]
    for objective in dict.fromkeys(tracked):
        metric, device = objective.metric, objective.device
        if device is None:
            if metric in DEVICE_METRICS:
                names = list(config.devices) or ["DEVICE"]
                problems.append(f"objective {metric} must name its device, as in {metric}@{names[0]}.")
            elif metric not in known:
                problems.append(f"objective {metric!r} must be one of {known}{nearest(metric, known)}.")
            elif metric in QUALITY_METRICS and config.data is None:
                problems.append(f"objective {metric} needs a data section, but there is none.")
        elif device not in config.devices:
            problems.append(
                f"objective {objective.name} must name a device of this config ({sorted(config.devices)}), "
                f"but got {device!r}{nearest(device, config.devices)}."
            )
        elif device in types and metric not in types[device].metrics:
            problems.append(
                f"objective {objective.name} must be something that the device measures "
                f"({list(types[device].metrics)}), but got {metric!r}{nearest(metric, types[device].metrics)}."
            )
    return problems


def load(path: Path, overrides: tuple[str, ...] = ()) -> Plan:
    """Returns the plan of a configuration file. Raises as `plan`."""
    raw = configuration.read_yaml(path, overrides)
    return load_raw(raw, source=str(path))


def load_raw(raw: Mapping[str, Any], *, source: str) -> Plan:
    """Returns the plan of a raw configuration. Raises as `plan`."""
    raw = {key: value for key, value in raw.items() if key != "format_version"}
    config, problems = configuration.parse(raw)
    configuration.raise_problems(problems, source)
    assert config is not None
    return plan(config, source=source)


def pretrained(made: Plan, supernet: Supernet) -> bool:
    """Loads the weights that the configuration names into `supernet`; returns whether it names any.

    Raises:
        UserError: broken file, another digest, or weights of another network.
    """
    section = made.config.supernet
    if section.weights is None:
        return False
    load_weights(supernet, section.weights, sha256=section.sha256)
    return True


def load_weights(supernet: Supernet, path: Path, *, sha256: str | None = None) -> None:
    """Loads full weights from a file: as saved by hwsearch, or a published checkpoint of the family.

    Raises:
        UserError: missing or broken file, another digest, or weights of another network; nothing is loaded then.
    """
    try:
        load_checkpoint(supernet, read_checkpoint(path, sha256=sha256), path)
    except CheckpointError as error:
        raise UserError(str(error)) from error


def load_checkpoint(supernet: Supernet, checkpoint: Checkpoint, path: Path) -> None:
    """Loads the tensors of a checkpoint, by our names or by published ones.

    Raises:
        CheckpointError: they do not fit; names every one that does not.
    """
    try:
        if is_ours(supernet, checkpoint):
            supernet.load_arrays({name: tensor.numpy() for name, tensor in checkpoint.tensors.items()})
        else:
            from_published(supernet, checkpoint.tensors)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def is_ours(supernet: Supernet, checkpoint: Checkpoint) -> bool:
    """Whether most tensors of a checkpoint carry our names."""
    ours = supernet.tensors().keys()
    return 2 * len(ours & checkpoint.tensors.keys()) > len(ours)


@dataclass(frozen=True)
class Factory:
    """Makes the workers of a run inside the process where they work.

    Args:
        raw: the configuration as plain data.
    """

    raw: Mapping[str, Any]

    def accuracy(self, weights: dict[str, NDArray[Any]] | None) -> AccuracyWorker:
        """Returns the worker that evaluates subnets of the run's super-network."""
        made = load_raw(self.raw, source="config")
        supernet = made.supernet(meta=True)
        if weights is not None:
            supernet.load_arrays(weights, copy=False)
        return NetworkWorker(
            supernet,
            made.dataset if made.needs_network else None,
            exporters={name: made.exporter(name) for name in made.measured},
            calibration_images=made.config.evaluation.calibration_images,
            calibration_batch=made.config.evaluation.calibration_batch,
            batch=made.config.evaluation.batch,
        )

    def lane(self, device: str) -> LaneWorker:
        """Returns the measuring lane of a device."""
        made = load_raw(self.raw, source="config")
        return DeviceLane(made.device(device))

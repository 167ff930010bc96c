"""Names from a configuration become objects here, and nowhere else."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hwsearch import checkpoints
from hwsearch import config as configuration
from hwsearch.config import Parsed, RunConfig
from hwsearch.construct import construct, parameter_problems
from hwsearch.data.dataset import Dataset
from hwsearch.devices.base import Device, DeviceSpec
from hwsearch.distribution.executor import Executor
from hwsearch.distribution.jobs import AccuracyWorker, LaneWorker, Limits, Resources
from hwsearch.distribution.workers import DeviceLane, NetworkWorker
from hwsearch.engines.base import ExactLosses, SearchEngine
from hwsearch.engines.exact import ExactCosts
from hwsearch.engines.warm_start import Source
from hwsearch.errors import ConfigError, DeviceError, MissingExtraError
from hwsearch.export.base import Exporter
from hwsearch.objectives import Objective
from hwsearch.own_model import Scorer, fidelity_scorer, user_scorer
from hwsearch.problems import nearest
from hwsearch.tracked import Tracked, is_quality
from predictors.base import LayerFunction, Predictor
from search_spaces.precision import precision_gene
from search_spaces.space import SearchSpace
from search_spaces.supernet import Family, SparsityGenes, Supernet

# Plain tables: name -> "module:attribute". Third parties add to them through entry points of the named groups.

FAMILIES = {
    "mlp": "search_spaces.mlp:MLP",
    "mobilenet": "search_spaces.mobilenet:MobileNet",
    "ofa_mobilenet_v3": "search_spaces.ofa_networks:OfaMobilenetV3",
    "ofa_proxyless": "search_spaces.ofa_networks:OfaProxyless",
    "ofa_resnet50": "search_spaces.ofa_resnet50:OfaResNet50",
    "hat_transformer": "search_spaces.hat:HatTransformer",
    "bert": "search_spaces.bert:Bert",
    "vit": "search_spaces.vit:ViT",
    "from_model": "hwsearch.own_model:from_model",
}
DATA = {
    "digits": "hwsearch.data.digits:DigitsSpec",
    "synthetic": "hwsearch.data.synthetic:SyntheticSpec",
    "cifar10": "hwsearch.data.cifar:Cifar10Spec",
    "cifar100": "hwsearch.data.cifar:Cifar100Spec",
    "image_folder": "hwsearch.data.image_folder:ImageFolderSpec",
    "callables": "hwsearch.data.callables:CallablesSpec",
}
ENGINES = {
    "pareto": "hwsearch.engines.pareto_search:ParetoSearch",
    "random": "hwsearch.engines.random_search:RandomSearch",
    "exhaustive": "hwsearch.engines.exhaustive:Exhaustive",
    "evolution": "hwsearch.engines.evolution:Evolution",
    "nsga2": "hwsearch.engines.nsga2:NSGA2",
    "nsga3": "hwsearch.engines.nsga3:NSGA3",
    "local": "hwsearch.engines.local_search:LocalSearch",
    "linas": "hwsearch.engines.linas:Linas",
    "weaknas": "hwsearch.engines.weaknas:WeakNas",
    "emo_pms": "hwsearch.engines.emo_pms:EmoPms",
    "optuna": "hwsearch.engines.optuna_engine:OptunaSampler",
    "pymoo": "hwsearch.engines.pymoo_engine:PymooAlgorithm",
}
DEVICES = {
    "onnxruntime": "hwsearch.devices.onnxruntime_device:OnnxRuntimeDevice",
    "openvino": "hwsearch.devices.openvino_device:OpenVinoDevice",
    "litert": "hwsearch.devices.litert_device:LiteRtDevice",
    "torch": "hwsearch.devices.torch_device:TorchDevice",
    "native": "hwsearch.native.device:NativeDevice",
    "command": "hwsearch.devices.command_device:CommandDevice",
    "onnxruntime_web": "hwsearch.devices.web_device:OnnxRuntimeWebDevice",
    "litert_js": "hwsearch.devices.web_device:LiteRtJsDevice",
    "analytic": "hwsearch.devices.analytic_device:AnalyticDevice",
    "simulated": "hwsearch.devices.simulated_device:SimulatedDevice",
}
EXPORTERS = {
    "onnx": "hwsearch.export.onnx_exporter:OnnxExporter",
    "openvino": "hwsearch.export.openvino_exporter:OpenVinoExporter",
    "litert": "hwsearch.export.litert_exporter:LiteRtExporter",
    "torch": "hwsearch.export.torch_exporter:TorchExporter",
    "native": "hwsearch.native.exporter:NativeExporter",
}
RECIPES = {
    "fixed_mask": "hwsearch.training.recipes.masking:FixedMask",
    "gradual": "hwsearch.training.recipes.gradual:GradualPruning",
    "activating": "hwsearch.training.recipes.activating:ActivatingPruning",
    "dynamic": "hwsearch.training.recipes.dynamic:DynamicSparsity",
    "straight_through": "hwsearch.training.recipes.patterns:StraightThrough",
    "mask_decay": "hwsearch.training.recipes.patterns:MaskDecay",
    "structure_decay": "hwsearch.training.recipes.patterns:StructureDecay",
    "group_envelope": "hwsearch.training.recipes.envelope:GroupEnvelope",
    "jackpots": "hwsearch.training.recipes.jackpots:LotteryJackpots",
    "nested_dropout": "hwsearch.training.recipes.nested:NestedDropout",
    "compander": "hwsearch.training.recipes.compander:WeightCompander",
    "trained_rank": "hwsearch.training.recipes.trained_rank:TrainedRankPruning",
}
RECIPES_ON_CHANNELS = frozenset({"nested_dropout"})
"""Recipes that are given the family's coupled channels."""
EXECUTORS = {
    "ray": "hwsearch.distribution.ray_executor:RayExecutor",
    "serial": "hwsearch.distribution.serial:SerialExecutor",
}
PREDICTORS = {
    "auto": "predictors.auto:Auto",
    "gp": "predictors.gaussian_process:GaussianProcess",
    "ridge": "predictors.ridge:Ridge",
    "non_negative": "predictors.non_negative:NonNegative",
    "svr": "predictors.svr:SupportVectors",
    "trees": "predictors.trees:BoostedTrees",
    "ensemble": "predictors.ensemble:DeepEnsemble",
}
COST_FEATURES = ("costs", "roofline", "one_hot", "ordinal")
"""What a predictor reads where the space's networks have layer costs."""
GROUPS = {
    "families": FAMILIES,
    "data": DATA,
    "engines": ENGINES,
    "devices": DEVICES,
    "exporters": EXPORTERS,
    "recipes": RECIPES,
}


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


def predictor(
    name: str, space: SearchSpace, *, layers: LayerFunction | None = None, batch: int = 1, log: bool = False
) -> Predictor:
    """Returns a new predictor of a space, which reads layer costs where there are any.

    Args:
        name: of `PREDICTORS`. Third parties cannot add any: files could not be read without them.
        space: of the architectures.
        layers: of the space's networks; None for a space without costs.
        batch: examples per measured call.
        log: fits the logarithm of the values.

    Raises:
        ConfigError: unknown name; shows the nearest.
    """
    if name not in PREDICTORS:
        known = sorted(PREDICTORS)
        raise ConfigError(f"the model must be one of {known}, but got {name!r}{nearest(name, known)}.")
    module, _, attribute = PREDICTORS[name].partition(":")
    kind = getattr(import_module(module), attribute)
    if name == "auto":
        options = {"candidates": import_module(module).LOG_CANDIDATES} if log else {}
    else:
        options = {"sets": None if layers is None else COST_FEATURES, "target": "log" if log else "raw"}
    made: Predictor = kind(space, layers=layers, batch=batch, **options)
    return made


def engine_target(name: str) -> tuple[Any, dict[str, str]]:
    """Returns the class of an engine and, of a name like `optuna:tpe`, the argument that its second part is.

    Raises:
        ConfigError: unknown engine, a variant that is missing, or one of an engine that has none.
    """
    base, colon, variant = name.partition(":")
    target = named("engines", base, "search.engine")
    takes = "variant" in inspect.signature(target).parameters
    if takes != bool(colon):
        wanted = f"{base}:<algorithm>" if takes else base
        raise ConfigError(f"search.engine must be {wanted!r}, but got {name!r}.")
    return target, {"variant": variant} if takes else {}


def search_engine(name: str, options: Mapping[str, Any], *, given: Mapping[str, Any]) -> SearchEngine:
    """Returns a search engine by name.

    Args:
        name: of the table of engines, with a variant after a colon where the engine has variants.
        options: of the user.
        given: arguments that the user cannot set.

    Raises:
        ConfigError: unknown engine or option.
    """
    target, variant = engine_target(name)
    engine: SearchEngine = construct(target, options, where="search.options", given={**given, **variant})
    return engine


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
    precisions: tuple[str, ...]
    """Choices of the gene `precision`; none: everything is fp32."""
    space: SearchSpace
    unavailable: Mapping[str, str]
    """Device -> what must be installed to measure on it."""

    @property
    def measured(self) -> tuple[str, ...]:
        """Devices that an objective or a limit needs, in the config's order."""
        needed = {o.device for o in (*self.objectives, *self.limits)}
        return tuple(name for name in self.devices if name in needed)

    @property
    def needs_network(self) -> bool:
        """Whether an objective or limit needs trained weights."""
        return any(is_quality(o, self.config.evaluation.function) for o in (*self.objectives, *self.limits))

    @property
    def weights_are(self) -> str | None:
        """What the networks' weights are, for cards; None where there are none and only costs count."""
        if self.config.supernet.weights is not None:
            return f"from {self.config.supernet.weights.name}"
        if self.family.has_weights:
            return "of the given model" + (", trained further in this run" if self.config.training else "")
        if self.needs_network:
            return "trained in this run"
        return "initial, never trained" if self.measured else None

    def supernet(self, *, meta: bool = False) -> Supernet:
        """Returns the super-network with its initial weights, or without storage."""
        return Supernet(
            self.family, sparsity=self.sparsity, precisions=self.precisions, seed=self.config.seed, meta=meta
        )

    def exact(self) -> ExactLosses:
        """Returns the function that computes losses and violations that need no evaluation (NaN in other columns)."""
        return ExactCosts(self.supernet(meta=True), self.objectives, limits=self.limits)

    def engine(self, sources: Sequence[Source] = ()) -> SearchEngine:
        """Returns the search engine.

        Args:
            sources: results of other runs and devices, for engines that take hints.
        """
        section = self.config.search
        given: dict[str, Any] = {
            "space": self.space,
            "n_objectives": len(self.objectives),
            "seed": self.config.seed,
            "exact": self.exact(),
        }
        takes_hints = "sources" in inspect.signature(engine_target(section.engine)[0]).parameters
        if section.warm_start and not takes_hints:
            raise ConfigError(f"search.warm_start must be used with the engine 'pareto', but got {section.engine!r}.")
        if takes_hints:
            given["sources"] = tuple(sources)
        return search_engine(section.engine, section.options, given=given)

    def device(self, name: str, *, reference_ms: float | None = None) -> Device:
        """Returns a device, with its reference value frozen if it is known."""
        spec = self.devices[name]
        if reference_ms is not None and spec.reference_ms is None:
            spec = spec.model_copy(update={"reference_ms": reference_ms})
        return self.device_types[name](spec)

    def exporter(self, name: str) -> Exporter | None:
        """Returns the exporter of what a device measures; None where costs suffice."""
        formats = self.device_types[name].opens(self.devices[name])
        return named("exporters", formats[0], "exporter")() if formats else None

    @property
    def admitted(self) -> dict[str, tuple[str, ...]]:
        """Returns measured device -> precisions of the nets that it measures."""
        choices = self.precisions or ("fp32",)
        return {name: tuple(p for p in choices if p in self.devices[name].precisions) for name in self.measured}

    def training(self) -> Any:
        """Returns the frozen training settings, or None."""
        return _training(self.config, self.dataset)

    def executor(self, factory: Any, weights: dict[str, NDArray[Any]] | None, *, ledger: Path) -> Executor:
        """Returns the executor with its workers started."""
        section = self.config.executor
        limits = Limits(section.retries, section.timeout_s, section.lane_batch, section.lane_wait_s)
        present = [name for name in self.measured if name not in self.unavailable]
        lanes = [(name, self.device_types[name].occupies_host(self.devices[name])) for name in present]
        module, _, attribute = EXECUTORS[section.kind].partition(":")
        make = getattr(import_module(module), attribute)
        if section.kind == "ray":
            needs = section.accuracy
            make = partial(
                make,
                n_workers=section.workers,
                address=section.address,
                ledger=ledger,
                accuracy=Resources(needs.cpus, needs.gpus, needs.memory_gb * 1e9),
                absent_s=section.absent_s,
                namespace=section.namespace,
                runtime_env=section.runtime_env,
            )
        executor: Executor = make(factory, weights, devices=lanes, limits=limits)
        return executor


def plan(config: RunConfig, *, source: str = "config") -> Plan:
    """Returns the plan of a configuration.

    Raises:
        ConfigError: all problems at once.
    """
    return _plan(Parsed(config, (), frozenset()), source)


def _plan(parsed: Parsed, source: str) -> Plan:
    """Returns the plan of what could be read; checks whatever does not depend on a bad part."""
    problems = list(parsed.problems)
    config = parsed.config
    if config is None:
        configuration.raise_problems(problems, source)
        raise AssertionError("a configuration is only missing when there are problems")

    def attempt(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except ConfigError as error:
            problems.extend(str(error).splitlines())
        except ValueError as error:
            problems.append(" ".join(str(error).split()))
        return None

    def good(*parts: str) -> bool:
        return not parsed.left_out.intersection(parts)

    tracked = Tracked(config, left_out=parsed.left_out)
    problems += tracked.problems
    dataset = attempt(lambda: open_data(config.data or {})) if config.data is not None else None
    scored = tracked.needs_network
    needs_data = scored and config.evaluation.function is None
    if config.data is None and needs_data and good("data"):
        problems.append("data must be given when an objective needs a trained network, but there is no such section.")
    shaped = dataset is not None or (config.data is None and not needs_data and good("data"))
    family = attempt(lambda: _family(config, dataset, shaped=shaped)) if good("supernet", "supernet.family") else None
    sparsity = attempt(lambda: _sparsity(config)) if config.sparsity is not None else None
    specs, types, unavailable = _devices(config, attempt)
    # A spec with problems has its own line already; its objectives are judged by what the runtime can measure at most.
    measured = {name: kind.measures(specs[name]) if name in specs else kind.metrics for name, kind in types.items()}
    problems += tracked.problems_of_places(config, measured, left_out=parsed.left_out)
    needed = {o.device: specs[o.device] for o in tracked.by_path.values() if o.device in specs}
    missing = [unavailable[name] for name in needed if name in unavailable]
    if missing and len(missing) == len(needed):
        problems += missing
    precisions = attempt(lambda: _precisions(config, needed)) or ()
    space = None
    if family is not None and (sparsity is not None or config.sparsity is None):
        space = attempt(lambda: _space(family, sparsity, precisions))
    made = None
    if family is not None and space is not None:
        made = Plan(
            config,
            tracked.objectives or (Objective("macs"),),
            tracked.limits,
            specs,
            types,
            dataset,
            family,
            sparsity,
            precisions,
            space,
            unavailable,
        )
    attempt(made.engine if made is not None else lambda: _engine_problems(config))
    attempt(lambda: _training(config, dataset))
    brings = family is not None and family.has_weights
    if config.evaluation.function is not None or config.evaluation.task == "fidelity":
        attempt(lambda: _scorer(config, family, dataset))
    if scored and not brings and not (config.supernet.weights or config.training) and good("training", "supernet"):
        problems.append("training (or supernet.weights) must be given when an objective needs a trained network.")
    attempt(lambda: _executor_problems(config))
    configuration.raise_problems(list(dict.fromkeys(problems)), source)
    assert made is not None
    return made


def open_data(section: Mapping[str, Any]) -> Dataset:
    """Returns the data that a `data` section names.

    Raises:
        ConfigError: unknown name, wrong parameters, or data that are not there.
    """
    raw = dict(section)
    name = raw.pop("name", None)
    if name is None:
        raise ConfigError("data.name is missing.")
    spec = construct(named("data", name, "data.name"), raw, where="data", given={})
    try:
        dataset: Dataset = spec.open()
    except ValueError as error:
        raise ConfigError(f"data: {' '.join(str(error).split())}") from error
    return dataset


def _family(config: RunConfig, dataset: Dataset | None, *, shaped: bool) -> Family | None:
    """Returns the family; None, its parameters checked, where data that decide its shape are not there."""
    section = config.supernet
    if shaped:
        return make_family(section.family, section.params, dataset, where="supernet")
    problems = parameter_problems(
        named("families", section.family, "supernet.family"),
        section.params,
        where="supernet.params",
        given={"input_shape", "n_classes"} - {*section.params},
    )
    if problems:
        raise ConfigError("\n".join(problems))
    return None


def make_family(name: str, params: Mapping[str, Any], dataset: Dataset | None, *, where: str) -> Family:
    """Returns the family of a section `where` with `family` and `params`; the data give input shape and classes.

    Raises:
        ConfigError: unknown name, wrong parameters, or another input shape than the data's.
    """
    target = named("families", name, f"{where}.family")
    names = inspect.signature(target).parameters
    params = dict(params)
    if dataset is not None:
        if "input_shape" in names:
            params.setdefault("input_shape", dataset.input_shape)
        if "n_classes" in names:
            params.setdefault("n_classes", dataset.n_classes)
    family: Family = construct(target, params, where=f"{where}.params", given={})
    if dataset is not None and tuple(family.input_shape) != tuple(dataset.input_shape):
        raise ConfigError(
            f"{where}.params.input_shape must be the data's {tuple(dataset.input_shape)}, "
            f"but got {tuple(family.input_shape)}."
        )
    return family


def _sparsity(config: RunConfig) -> SparsityGenes:
    section = config.sparsity
    assert section is not None
    try:
        SparsityGenes(section.choices, per=section.per)  # what was dropped must have been right, too
        return SparsityGenes(_left(config, "sparsity", section.choices), per=section.per)
    except ValueError as error:
        raise ConfigError(f"sparsity.choices: {error}") from error


def _left(config: RunConfig, group: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    """Returns what is left of choices after the decision of the run's first start."""
    left: tuple[str, ...] | None = None if config.decided is None else getattr(config.decided, group)
    if left is None:
        return choices
    if not left or not set(left) <= set(choices):
        raise ConfigError(f"decided.{group} must list some of the choices {list(choices)}, but got {list(left)}.")
    return left


def _precisions(config: RunConfig, needed: Mapping[str, DeviceSpec]) -> tuple[str, ...]:
    """Returns the choices of the gene `precision`: the config's, or those that its devices name first."""
    if config.precision is not None:
        try:
            precision_gene(config.precision.choices)
        except ValueError as error:
            raise ConfigError(f"precision.choices: {error}") from error
        choices = _left(config, "precision", config.precision.choices)
    elif config.decided is not None and config.decided.precision is not None:
        choices = config.decided.precision  # of the devices of the first start
    else:
        choices = tuple(dict.fromkeys(spec.precisions[0] for spec in needed.values()))
        choices = () if set(choices) <= {"fp32"} else choices
    for name, spec in needed.items():
        searched = choices or ("fp32",)
        if not set(searched) & set(spec.precisions):
            raise ConfigError(
                f"devices.{name}.precisions must hold one of the precisions that are searched ({', '.join(searched)}), "
                f"but got {', '.join(spec.precisions)}."
            )
    for choice in choices if needed else ():
        if all(choice not in spec.precisions for spec in needed.values()):
            raise ConfigError(
                f"precision.choices: {choice} must be admitted by a device of an objective ({', '.join(needed)}), "
                "but by none it is."
            )
    return choices


def _space(family: Family, sparsity: SparsityGenes | None, precisions: tuple[str, ...]) -> SearchSpace:
    try:
        space = Supernet(family, sparsity=sparsity, meta=True).space
    except ValueError as error:
        raise ConfigError(f"{'supernet.params' if sparsity is None else 'sparsity.choices'}: {error}") from error
    if sparsity is not None and space == family.space:
        raise ConfigError("sparsity must apply to at least one layer, but no layer of this family may be sparse.")
    return SearchSpace([*space.genes, precision_gene(precisions)]) if precisions else space


def _devices(
    config: RunConfig, attempt: Callable[[Callable[[], Any]], Any]
) -> tuple[dict[str, DeviceSpec], dict[str, type[Device]], dict[str, str]]:
    """Returns descriptions and classes of the devices that are all right, and what is not installed for some."""
    specs: dict[str, DeviceSpec] = {}
    types: dict[str, type[Device]] = {}
    unavailable: dict[str, str] = {}
    for name, raw in config.devices.items():
        where = f"devices.{name}"
        spec = attempt(partial(construct, DeviceSpec, raw, where=where, given={"name": name}))
        kind = attempt(partial(named, "devices", spec.runtime, f"{where}.runtime")) if spec is not None else None
        if kind is not None:
            types[name] = kind
            missing = attempt(partial(_check_device, kind, spec, where))
            if missing is not None:
                specs[name] = spec
                unavailable.update({name: missing} if missing else {})
    return specs, types, unavailable


def _check_device(kind: type[Device], spec: DeviceSpec, where: str) -> str:
    """Returns what is not installed, or "" if the device's class takes the description.

    Raises:
        ConfigError: it does not, or no exporter makes what it measures.
    """
    formats = kind.opens(spec)
    precisions = named("exporters", formats[0], "exporter").precisions if formats else None
    unknown = [p for p in spec.precisions if precisions is not None and p not in precisions]
    if unknown:
        raise ConfigError(f"{where}.precisions must be of {list(precisions or ())}, but got {unknown[0]!r}.")
    try:
        kind(spec)
    except DeviceError:
        pass  # not on this machine, or not now: its lane will say so
    except MissingExtraError as error:
        return str(error)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    return ""


def _engine_problems(config: RunConfig) -> None:
    """Raises for what is wrong with the engine's name and options where there is no space to make it for."""
    target, variant = engine_target(config.search.engine)
    given = {"space", "n_objectives", "seed", "exact", "sources", *variant} & {*inspect.signature(target).parameters}
    problems = parameter_problems(target, config.search.options, where="search.options", given=given)
    if problems:
        raise ConfigError("\n".join(problems))


def _training(config: RunConfig, dataset: Dataset | None) -> Any:
    """Returns the frozen training settings, or None."""
    if config.training is None:
        return None
    target = import_module("hwsearch.training.config").TrainingConfig
    settings = construct(target, {"seed": config.seed, **config.training}, where="training", given={})
    if dataset is not None and settings.batch_size > len(dataset.train):
        raise ConfigError(
            f"training.batch_size must be at most the {len(dataset.train)} examples of the train split, "
            f"but got {settings.batch_size}."
        )
    return settings


def _scorer(config: RunConfig, family: Family | None, dataset: Dataset | None) -> Scorer | None:
    """Returns what scores instead of the labels of the data, if anything does."""
    section = config.evaluation
    if section.function is not None:
        try:
            return user_scorer(section.function)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    if section.task != "fidelity" or family is None or dataset is None:
        return None
    if not family.has_weights:
        raise ConfigError(
            f"evaluation.task must be 'classification' unless the model is given, but {family.name} is no given model."
        )
    splits = {"search": dataset.search, "holdout": dataset.holdout}
    return fidelity_scorer(family.build_full().eval(), splits, kind=section.fidelity, batch=section.batch)


def _executor_problems(config: RunConfig) -> None:
    section, cores = config.executor, os.cpu_count() or 1
    if section.kind == "ray" and section.address is None and (section.workers or 1) > cores:
        raise ConfigError(
            f"executor.workers must be at most the {cores} cores of this machine, but got {section.workers}."
        )


def load(path: Path, overrides: tuple[str, ...] = ()) -> Plan:
    """Returns the plan of a configuration file; its relative paths count from the working directory.

    Raises:
        ConfigError: all problems at once.
    """
    raw = configuration.read_yaml(path, overrides)
    return load_raw(configuration.absolute_paths(raw), source=str(path))


def load_raw(raw: Mapping[str, Any], *, source: str) -> Plan:
    """Returns the plan of a raw configuration. Raises as `plan`."""
    return _plan(configuration.parse({key: value for key, value in raw.items() if key != "format_version"}), source)


def pretrained(made: Plan, supernet: Supernet) -> bool:
    """Loads the weights that the configuration names into `supernet`; returns whether it has trained weights now.

    Raises:
        UserError: broken file, another digest, or weights of another network.
    """
    section = made.config.supernet
    if section.weights is None:
        return made.family.has_weights and made.config.training is None
    checkpoints.load_weights(supernet, section.weights, sha256=section.sha256)
    return True


def engine_of(precision: str) -> Exporter:
    """Returns the exporter whose engine evaluates a precision where no device's does."""
    for name in EXPORTERS:
        exporter = named("exporters", name, "exporter")
        if precision in exporter.precisions:
            made: Exporter = exporter()
            return made
    raise ConfigError(f"precision must be one that an exporter makes, but got {precision!r}.")


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
            exporters={name: made.exporter(name) for name in made.measured if name not in made.unavailable},
            admitted=made.admitted,
            engine_of=engine_of,
            quantization_images=made.config.evaluation.quantization_images,
            calibration_images=made.config.evaluation.calibration_images,
            calibration_batch=made.config.evaluation.calibration_batch,
            batch=made.config.evaluation.batch,
            has_weights=weights is not None,
            scorer=_scorer(made.config, made.family, made.dataset) if made.needs_network else None,
        )

    def lane(self, device: str) -> LaneWorker:
        """Returns the measuring lane of a device."""
        made = load_raw(self.raw, source="config")
        return DeviceLane(made.device(device))

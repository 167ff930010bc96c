"""Names of a configuration: tables of what there is, and the objects behind the names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from hwsearch.construct import construct
from hwsearch.engines.base import SearchEngine
from hwsearch.errors import ConfigError
from hwsearch.export.base import Exporter
from hwsearch.problems import nearest
from predictors.base import LayerFunction, Predictor, ScoreFunction, Target
from search_spaces.space import SearchSpace

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
SINKS = {
    "tensorboard": "hwsearch.sinks:TensorBoardSink",
    "mlflow": "hwsearch.sinks:MlflowSink",
}
GROUPS = {
    "families": FAMILIES,
    "data": DATA,
    "engines": ENGINES,
    "devices": DEVICES,
    "exporters": EXPORTERS,
    "recipes": RECIPES,
    "sinks": SINKS,
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
    name: str,
    space: SearchSpace,
    *,
    layers: LayerFunction | None = None,
    batch: int = 1,
    target: Target = "raw",
    scores: ScoreFunction | None = None,
) -> Predictor:
    """Returns a new predictor of a space, which reads layer costs where there are any.

    Args:
        name: of `PREDICTORS`. Third parties cannot add any: files could not be read without them.
        space: of the architectures.
        layers: of the space's networks; None for a space without costs.
        batch: examples per measured call.
        scores: of the networks, where they shall be features; None for none.
        target: what of the values is fitted; of `auto`, `raw` leaves that to it.

    Raises:
        ConfigError: unknown name; shows the nearest.
    """
    if name not in PREDICTORS:
        known = sorted(PREDICTORS)
        raise ConfigError(f"the model must be one of {known}, but got {name!r}{nearest(name, known)}.")
    module, _, attribute = PREDICTORS[name].partition(":")
    kind = getattr(import_module(module), attribute)
    options: dict[str, Any]
    if name == "auto":
        options = {"scores": scores}
        if target != "raw":
            options["candidates"] = import_module(module).with_target(target)
    else:
        options = {"sets": None if layers is None else COST_FEATURES, "target": target}
        if scores is not None:
            from predictors.features import Features

            sets = (*(kind.default_sets if layers is None else COST_FEATURES), "scores")
            made_features = Features(space, sets, layers=layers, batch=batch, scores=scores)
            options = {"features": made_features, "target": target}
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


def engine_of(precision: str) -> Exporter:
    """Returns the exporter whose engine evaluates a precision where no device's does."""
    for name in EXPORTERS:
        exporter = named("exporters", name, "exporter")
        if precision in exporter.precisions:
            made: Exporter = exporter()
            return made
    raise ConfigError(f"precision must be one that an exporter makes, but got {precision!r}.")

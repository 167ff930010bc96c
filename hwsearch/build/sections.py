"""Each section of a configuration becomes what it describes, or one line that says what must hold."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from hwsearch.build.registry import engine_target, named
from hwsearch.config import RunConfig
from hwsearch.construct import construct, parameter_problems
from hwsearch.data.dataset import Dataset
from hwsearch.devices.base import Device, DeviceSpec
from hwsearch.errors import ConfigError, DeviceError, MissingExtraError, UserError
from hwsearch.own_model import Scorer, fidelity_scorer, user_scorer
from search_spaces.precision import precision_gene
from search_spaces.space import SearchSpace
from search_spaces.supernet import Family, SparsityGenes, Supernet


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


def family_of(config: RunConfig, dataset: Dataset | None, *, shaped: bool) -> Family | None:
    """Returns the family; None, its parameters checked, where data that decide its shape are not there."""
    section = config.supernet
    if shaped:
        params = dict(section.params)
        if config.decided is not None and config.decided.channel_multiple is not None:
            params.setdefault("multiple", config.decided.channel_multiple)
        return make_family(section.family, params, dataset, where="supernet")
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


def sparsity_of(config: RunConfig) -> SparsityGenes:
    """Returns the sparsity genes of a configuration that has the section, less what was decided against."""
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


def precisions_of(config: RunConfig, needed: Mapping[str, DeviceSpec]) -> tuple[str, ...]:
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


def space_of(family: Family, sparsity: SparsityGenes | None, precisions: tuple[str, ...]) -> SearchSpace:
    """Returns the genes of the family's networks with those of sparsity and precision."""
    try:
        space = Supernet(family, sparsity=sparsity, meta=True).space
    except ValueError as error:
        raise ConfigError(f"{'supernet.params' if sparsity is None else 'sparsity.choices'}: {error}") from error
    if sparsity is not None and space == family.space:
        raise ConfigError("sparsity must apply to at least one layer, but no layer of this family may be sparse.")
    return SearchSpace([*space.genes, precision_gene(precisions)]) if precisions else space


def devices_of(
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


def engine_problems(config: RunConfig) -> None:
    """Raises for what is wrong with the engine's name and options where there is no space to make it for."""
    target, variant = engine_target(config.search.engine)
    given = {"space", "n_objectives", "seed", "exact", "sources", *variant} & {*inspect.signature(target).parameters}
    problems = parameter_problems(target, config.search.options, where="search.options", given=given)
    if problems:
        raise ConfigError("\n".join(problems))


def training_of(config: RunConfig, dataset: Dataset | None) -> Any:
    """Returns the frozen training settings, or None."""
    if config.training is None:
        return None
    target = import_module("hwsearch.training.config").TrainingConfig
    check_workers = import_module("hwsearch.training.group").check_workers
    settings = construct(target, {"seed": config.seed, **config.training}, where="training", given={})
    if dataset is not None and settings.batch_size > len(dataset.train):
        raise ConfigError(
            f"training.batch_size must be at most the {len(dataset.train)} examples of the train split, "
            f"but got {settings.batch_size}."
        )
    try:
        check_workers(settings, config.executor.training.workers or 1)
    except UserError as error:
        raise ConfigError(str(error)) from error
    return settings


def scorer_of(config: RunConfig, family: Family | None, dataset: Dataset | None) -> Scorer | None:
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


def executor_problems(config: RunConfig) -> None:
    """Raises for an executor that this machine cannot be."""
    section, cores = config.executor, os.cpu_count() or 1
    if section.kind != "ray" and section.training.workers is not None:
        raise ConfigError(
            f"executor.kind must be ray where executor.training.workers is given, but got {section.kind!r}."
        )
    if section.kind == "ray" and section.address is None and (section.workers or 1) > cores:
        raise ConfigError(
            f"executor.workers must be at most the {cores} cores of this machine, but got {section.workers}."
        )

"""`hwsearch train`: one network, trained with sparse recipes as a YAML file says, scored and exported."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import nn

from hwsearch.build import registry, sections
from hwsearch.config import Section, read_yaml
from hwsearch.construct import construct, parameter_problems
from hwsearch.data.dataset import Dataset
from hwsearch.errors import ConfigError, UserError
from hwsearch.evaluation import evaluate
from hwsearch.export.onnx_exporter import OnnxExporter
from hwsearch.export.verify import verify
from hwsearch.export.weights import encode
from hwsearch.front import versions
from hwsearch.problems import describe
from hwsearch.runfolder import write_atomic, write_json
from hwsearch.training.config import TrainingConfig
from hwsearch.training.distillation import Distillation
from hwsearch.training.network_training import check_recipes, train_network
from hwsearch.training.progress import Progress
from hwsearch.training.recipes.base import Recipe, prunable, sparsity_of
from hwsearch.training.soups import prune_and_soup
from search_spaces.architecture import Architecture
from search_spaces.budgets import check_budget
from search_spaces.genes import Value
from search_spaces.low_rank import LowRank
from search_spaces.supernet import Family, Supernet


class NetworkSection(Section):
    """Which network: an architecture of a family, by default its largest; `low_rank`: share of the full rank."""

    family: str
    params: dict[str, Any] = Field(default_factory=dict)
    architecture: dict[str, Value] | None = None
    low_rank: float | None = Field(default=None, gt=0.0, le=1.0)


class SoupSection(Section):
    """Prune, retrain several members of `epochs` each, average; after `pretrain_epochs`."""

    sparsity: float = Field(ge=0.0, lt=1.0)
    epochs: int = Field(default=5, ge=1)
    rounds: int = Field(default=3, ge=1)
    members: int = Field(default=3, ge=1)


class TrainConfig(Section):
    """A training of one network. What recipes may not touch follows from the family: first layer, classifier."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_.-]+$")
    seed: int = Field(default=0, ge=0)
    data: dict[str, Any]
    network: NetworkSection
    training: dict[str, Any] = Field(default_factory=dict)
    pretrain_epochs: int = Field(default=0, ge=0)
    recipes: tuple[dict[str, Any], ...] = ()
    soup: SoupSection | None = None
    guide_epochs: int | None = Field(default=None, ge=0)
    distillations: tuple[dict[str, Any], ...] = ()


class Observer(Protocol):
    """Is told how a training comes along."""

    def phase(self, name: str) -> None:
        """A phase begins."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...

    def training(self, progress: Progress) -> None:
        """A step is done."""
        ...


@dataclass(frozen=True)
class TrainPlan:
    """A training configuration whose names are objects."""

    config: TrainConfig
    dataset: Dataset
    family: Family
    arch: Architecture
    settings: TrainingConfig
    distillations: tuple[Distillation, ...]
    keep_dense: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def network(self) -> nn.Module:
        """Returns the network with its initial weights."""
        return Supernet(self.family, seed=self.config.seed).extract(self.arch)

    def recipes(self) -> list[Recipe]:
        """Returns fresh recipes, in order."""
        made = []
        for i, raw in enumerate(self.config.recipes):
            made.append(_recipe(raw, f"recipes.{i}", self.family))
        return made


def _recipe(raw: Mapping[str, Any], where: str, family: Family) -> Recipe:
    params = dict(raw)
    name = params.pop("name", None)
    if name is None:
        raise ConfigError(f"{where}.name is missing.")
    target = registry.named("recipes", name, f"{where}.name")
    given: dict[str, Any] = {"groups": family.channel_groups()} if name in registry.RECIPES_ON_CHANNELS else {}
    recipe: Recipe = construct(target, params, where=where, given=given)
    return recipe


def plan(path: Path, overrides: Sequence[str] = ()) -> TrainPlan:
    """Returns the plan of a training configuration.

    Raises:
        ConfigError: all problems at once; nothing is written or trained.
    """
    raw = read_yaml(path, overrides)
    try:
        config = TrainConfig.model_validate(raw)
    except ValidationError as error:
        _raise(describe(error, raw, where="", schema=TrainConfig), path)
    problems: list[str] = []

    def attempt(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except (ConfigError, UserError) as error:
            problems.extend(str(error).splitlines())
        except ValueError as error:
            problems.append(" ".join(str(error).split()))
        return None

    dataset = attempt(lambda: sections.open_data(config.data))
    settings = attempt(
        lambda: construct(TrainingConfig, {"seed": config.seed, **config.training}, where="training", given={})
    )
    distillations = [
        attempt(partial(construct, Distillation, term, where=f"distillations.{i}", given={}))
        for i, term in enumerate(config.distillations)
    ]
    if bool(config.distillations) != (config.guide_epochs is not None):
        problems.append("distillations and guide_epochs must be given together, but one of them is missing.")
    if config.soup is not None and (config.recipes or not config.pretrain_epochs):
        problems.append("soup must come with pretrain_epochs and without recipes.")
    family = attempt(lambda: _family(config, dataset)) if dataset is not None else None
    arch = attempt(lambda: _architecture(config, family)) if family is not None else None
    for i, entry in enumerate(config.recipes):
        check = partial(_recipe, family=family) if family is not None else _check_recipe
        attempt(partial(check, entry, f"recipes.{i}"))
    _raise(problems, path)
    assert family is not None
    assert arch is not None
    made = TrainPlan(config, dataset, family, arch, settings, tuple(distillations), ())
    modules = dict(made.network().named_modules())
    made = replace(made, keep_dense=tuple(name for name in _keep_dense(family) if name in modules))
    notes = attempt(lambda: _rehearse(made))
    _raise(problems, path)
    return replace(made, notes=notes)


def _rehearse(made: TrainPlan) -> tuple[str, ...]:
    model = made.network()
    if made.config.soup is not None:
        shapes = {name: tuple(weight.shape) for name, weight in prunable(model, made.keep_dense).items()}
        check_budget(shapes, 1.0 - made.config.soup.sparsity)
    return check_recipes(model, made.settings, made.recipes(), keep_dense=made.keep_dense)


def _check_recipe(raw: Mapping[str, Any], where: str) -> None:
    params = {key: value for key, value in raw.items() if key != "name"}
    target = registry.named("recipes", str(raw.get("name")), f"{where}.name")
    problems = parameter_problems(target, params, where=where, given={"groups"})
    if problems:
        raise ConfigError("\n".join(problems))


def _raise(problems: Sequence[str], path: Path) -> None:
    if len(problems) == 1:
        raise ConfigError(f"{path}: {problems[0]}")
    if problems:
        raise ConfigError(f"{path}: {len(problems)} problems:\n" + "\n".join(f"  - {p}" for p in problems))


def _family(config: TrainConfig, dataset: Dataset) -> Family:
    family = sections.make_family(config.network.family, config.network.params, dataset, where="network")
    if config.network.low_rank is not None:
        return LowRank(family, ratios=(config.network.low_rank,))
    return family


def _architecture(config: TrainConfig, family: Family) -> Architecture:
    if config.network.architecture is None:
        return family.space.largest()
    try:
        return family.space.architecture(config.network.architecture)
    except ValueError as error:
        raise ConfigError(f"network.architecture: {error}") from error


def _keep_dense(family: Family) -> tuple[str, ...]:
    row = family.space.row(family.space.largest())
    layers = family.layers(family.space.columns(row[None]))
    return tuple(layer.name for layer in layers if layer.kind in {"conv", "linear"} and not layer.may_be_sparse)


@dataclass(frozen=True)
class TrainOutcome:
    """What a training leaves: its folder and the content of its card."""

    folder: Path
    card: Mapping[str, Any]


def train(path: Path, *, overrides: Sequence[str] = (), folder: Path | None = None, observer: Observer) -> TrainOutcome:
    """Trains, scores and exports the network that a configuration describes; continues an interrupted training.

    The folder gets `model.onnx`, `model.safetensors`, `card.json` and the checkpoints of its phases.

    Raises:
        UserError: anything wrong with the configuration, or a folder that holds another training.
    """
    made = plan(path, overrides)
    folder = folder or Path("runs") / made.config.name
    for note in made.notes:
        observer.note(note)
    model, keep = made.network(), made.keep_dense
    recipes = made.recipes()
    guide = _guide(made, folder, observer)
    if made.config.pretrain_epochs:
        observer.phase("pretraining")
        first = made.settings.model_copy(update={"epochs": made.config.pretrain_epochs})
        train_network(
            model, made.dataset, first, checkpoint=folder / "pretraining.safetensors", progress=observer.training
        )
    digest = ""
    if made.config.soup is not None:
        observer.phase("soup")
        soup = made.config.soup
        prune_and_soup(
            model,
            made.dataset,
            made.settings.model_copy(update={"epochs": soup.epochs}),
            sparsity=soup.sparsity,
            rounds=soup.rounds,
            members=soup.members,
            keep_dense=keep,
            progress=observer.training,
        )
    else:
        observer.phase("training")
        digest = train_network(
            model,
            made.dataset,
            made.settings,
            recipes=recipes,
            keep_dense=keep,
            teacher=guide,
            distillations=made.distillations,
            checkpoint=folder / "training.safetensors",
            progress=observer.training,
        ).digest
    observer.phase("export")
    return TrainOutcome(folder, _export(made, model, keep, digest, folder))


def _guide(made: TrainPlan, folder: Path, observer: Observer) -> nn.Module | None:
    if made.config.guide_epochs is None:
        return None
    guide = Supernet(made.family, seed=made.config.seed + 1).extract(made.arch)
    if made.config.guide_epochs:
        observer.phase("guide")
        settings = made.settings.model_copy(update={"epochs": made.config.guide_epochs})
        checkpoint = folder / "guide.safetensors"
        train_network(guide, made.dataset, settings, checkpoint=checkpoint, progress=observer.training)
    return guide.eval()


def _export(made: TrainPlan, model: nn.Module, keep: tuple[str, ...], digest: str, folder: Path) -> dict[str, Any]:
    model = copy.deepcopy(model).eval()
    exporter = OnnxExporter()
    example = made.family.example_inputs(batch=2, generator=torch.Generator().manual_seed(0), arch=made.arch)
    artifact = exporter.export(model, example, costs={})
    rows = np.arange(min(64, len(made.dataset.holdout)))
    agreement = verify(model, artifact, exporter, batches=[example, (made.dataset.holdout.inputs(rows),)])
    files = {"model.onnx": artifact.content, "model.safetensors": encode(model.state_dict())}
    weights = prunable(model, keep)
    search, holdout = (evaluate(model, split) for split in (made.dataset.search, made.dataset.holdout))
    card = {
        "format_version": 1,
        "architecture": made.arch.to_dict(),
        "metrics": {
            "accuracy": {"value": holdout.accuracy, "std": holdout.accuracy_std},
            "loss": {"value": holdout.loss, "std": None},
            "search_accuracy": {"value": search.accuracy, "std": search.accuracy_std},
            "sparsity": {"value": sparsity_of(weights), "std": None},
        },
        "layer_sparsity": {name: sparsity_of({name: weight}) for name, weight in weights.items()},
        "agreement": asdict(agreement),
        "training_digest": digest or None,
        "config": made.config.model_dump(mode="json"),
        "data": made.dataset.card(),
        "files": {name: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in files.items()},
        "versions": versions(),
    }
    for name, content in files.items():
        write_atomic(folder / name, content)
    write_json(folder / "card.json", card)
    return card

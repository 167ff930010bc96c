"""How a predictor is made of measurements: which model, which features, whose other devices help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hwsearch.build import registry
from hwsearch.commands.space_source import SpaceSource
from hwsearch.errors import UserError
from hwsearch.importers.table import read_table
from predictors.auto import Auto
from predictors.base import FloatArray, Prediction, Predictor, ScoreFunction, Target
from predictors.features import Features
from predictors.files import load
from predictors.model import FeatureModel
from predictors.transfer import Transfer
from search_spaces.space import Population

TABLES = (".csv", ".gz")
ALL = "all"


@dataclass(frozen=True)
class Recipe:
    """Makes unfitted predictors, all alike.

    Args:
        source: of the space and its layer costs.
        model: name out of `registry.PREDICTORS`; not used where there are other devices.
        transform: what of the values is fitted; not used where there are other devices.
        batch: examples per measured call.
        devices: name -> fitted predictor of the same metric on another device.
        scores: zero-cost scores of the networks that are features; None for none.
    """

    source: SpaceSource
    model: str = "auto"
    transform: Target = "raw"
    batch: int = 1
    devices: Mapping[str, Predictor] = field(default_factory=dict)
    scores: ScoreFunction | None = None

    def make(self) -> Predictor:
        """Returns a new predictor, unfitted."""
        if self.devices:
            return Transfer(self.source.space, devices=self.devices, layers=self.source.layers)
        return registry.predictor(
            self.model,
            self.source.space,
            layers=self.source.layers,
            batch=self.batch,
            target=self.transform,
            scores=self.scores,
        )

    def embed(self, population: Population) -> FloatArray:
        """Returns where architectures (n, g) lie, (n, d), for choosing which to measure: spread here tells most."""
        if self.devices:
            return np.stack([np.log(np.maximum(d.predict(population).mean, 1e-12)) for d in self.devices.values()], 1)
        return self._features.matrix(population)

    @property
    def _features(self) -> Features:
        sets = ("costs", "one_hot") if self.source.layers is not None else ("one_hot", "ordinal")
        return Features(self.source.space, sets, layers=self.source.layers, batch=self.batch)


def recipe(
    source: SpaceSource,
    *,
    target: str,
    model: str = "auto",
    transform: Target = "raw",
    batch: int = 1,
    from_devices: Sequence[str] = (),
    zero_cost: Sequence[str] = (),
) -> Recipe:
    """Returns the recipe, with the predictors of other devices loaded, or fitted to their tables.

    Args:
        source: of the space.
        target: metric; that of the other devices, too.
        model: name out of `registry.PREDICTORS`.
        transform: what of the values is fitted.
        batch: examples per measured call.
        from_devices: predictor files, or tables as `read_table` takes them, of other devices.
        zero_cost: zero-cost scores of the networks that are features, by name, or `all`.

    Raises:
        UserError or ValueError: unknown model, another space or metric, two devices of one name.
    """
    registry.predictor(
        model, source.space, layers=source.layers, batch=batch, target=transform
    )  # an unknown name shows now
    if from_devices and zero_cost:
        raise UserError("--from-devices decides the features itself: leave out --zero-cost.")
    if from_devices and (model != "auto" or transform != "raw"):
        raise UserError("--from-devices decides the model and its transform itself: leave out --model, --log, --rank.")
    devices: dict[str, Predictor] = {}
    for text in from_devices:
        path = Path(text)
        if path.suffix in TABLES:
            name = path.name.split(".")[0]
            table = read_table(path, source.space, target=target)
            predictor = registry.predictor("auto", source.space, layers=source.layers, batch=batch)
            try:
                predictor.fit(table.rows, table.values, stds=table.stds)
            except ValueError as error:
                raise UserError(f"{path}: {error}") from error
        else:
            loaded = load(path, space=source.space, sources=source.sources, metric=target)
            predictor, name = loaded.predictor, loaded.card.device or path.name.split(".")[0]
        if name in devices:
            raise UserError(f"--from-devices must be of different devices, but {name!r} is given twice.")
        devices[name] = predictor
    return Recipe(source, model, transform, batch, devices, _scores(source, zero_cost))


def _scores(source: SpaceSource, names: Sequence[str]) -> ScoreFunction | None:
    if not names:
        return None
    of_nets = source.scores
    if of_nets is None:
        raise UserError("--zero-cost must be used with a space that has networks, but this one has genes only.")
    try:
        return of_nets if ALL in names else of_nets.only(list(dict.fromkeys(names)))
    except ValueError as error:
        raise UserError(f"--zero-cost: {error}") from error


def parts(predictor: Predictor) -> dict[str, float]:
    """Returns what a fitted predictor is made of, and how much each part counts; empty where it is one model."""
    if isinstance(predictor, Auto):
        shares = {name: float(w) for name, w in zip(predictor.names_, predictor.weights_, strict=True)}
        return dict(sorted(shares.items(), key=lambda item: -item[1]))
    return predictor.relevance() if isinstance(predictor, Transfer) else {}


def own_held_out(predictor: Predictor) -> Prediction | None:
    """Returns the held-out answers that a predictor's fit made itself; None where it made none."""
    return predictor.held_out() if isinstance(predictor, Auto | FeatureModel) else None

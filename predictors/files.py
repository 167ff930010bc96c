"""Predictors in files: arrays and JSON in one safetensors file, checked before anything is believed. No pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from predictors.analytic import Analytic
from predictors.auto import Auto
from predictors.base import FloatArray, Predictor, Sources, State
from predictors.ensemble import DeepEnsemble
from predictors.gaussian_process import GaussianProcess
from predictors.graph_network import GraphNetwork
from predictors.lookup_table import LookupTable
from predictors.non_negative import NonNegative
from predictors.ridge import Ridge
from predictors.roofline import Roofline
from predictors.svr import SupportVectors
from predictors.transfer import Transfer
from predictors.trees import BoostedTrees
from search_spaces.genes import Condition, Gene
from search_spaces.space import Population, SearchSpace

FORMAT = 1
KEY = "hwsearch_predictor"
MODELS = (
    Analytic,
    Auto,
    BoostedTrees,
    DeepEnsemble,
    GaussianProcess,
    GraphNetwork,
    LookupTable,
    NonNegative,
    Ridge,
    Roofline,
    SupportVectors,
    Transfer,
)
KINDS: dict[str, type[Predictor]] = {model.kind: model for model in MODELS}
Scalar = str | int | float | bool | None


class PredictorFileError(ValueError):
    """A file that holds no predictor, a damaged one, or one of another space, metric, unit or device: one line."""


@dataclass(frozen=True)
class Card:
    """What a stored predictor is about.

    Args:
        metric: `latency_ms`, `accuracy`, ...
        unit: of means and deviations.
        device: name of the device; None for what does not depend on one.
        device_fingerprint: what the device's numbers depend on, as the device states it.
        training_digest: `training_digest` of the rows it was fitted on.
        n_rows: how many those were.
        report: `validation.Report.to_dict()` of its cross-validation.
        notes: anything else that is worth keeping, JSON-able.
    """

    metric: str
    unit: str
    device: str | None = None
    device_fingerprint: Mapping[str, Scalar] = field(default_factory=dict)
    training_digest: str = ""
    n_rows: int = 0
    report: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Loaded:
    """A predictor from a file, with its card."""

    predictor: Predictor
    card: Card


def training_digest(population: Population, values: FloatArray) -> str:
    """Returns a 16-digit digest of training rows (n, g) and their values (n,), in order."""
    digest = hashlib.sha256(np.ascontiguousarray(population, dtype=np.uint8).tobytes())
    digest.update(np.ascontiguousarray(values, dtype=np.float64).tobytes())
    return digest.hexdigest()[:16]


def save(predictor: Predictor, path: str | Path, *, card: Card) -> None:
    """Writes a fitted predictor with its card; the file appears whole or not at all.

    Raises:
        RuntimeError: not fitted.
    """
    path = Path(path)
    state = predictor.state()
    arrays = {name: np.ascontiguousarray(array) for name, array in state.arrays.items()}
    head = {
        "format": FORMAT,
        "kind": predictor.kind,
        "space": {"fingerprint": predictor.space.fingerprint, "genes": genes_to_json(predictor.space)},
        "card": asdict(card),
        "settings": dict(state.settings),
    }
    text = json.dumps(head, sort_keys=True)
    temporary = path.with_name(f".{path.name}.tmp")
    # safetensors wants at least one tensor.
    save_file(arrays or {"empty": np.zeros(1)}, temporary, metadata={KEY: text, "sha256": _digest(text, arrays)})
    temporary.replace(path)


def load(
    path: str | Path,
    *,
    space: SearchSpace | None = None,
    sources: Sources | None = None,
    metric: str | None = None,
    unit: str | None = None,
    device_fingerprint: Mapping[str, Scalar] | None = None,
) -> Loaded:
    """Returns the predictor in a file. Nothing in the file is executed, and its digest is checked first.

    Args:
        path: of the file.
        space: that the predictor must be of; None takes the space stored in the file.
        sources: functions of the space's networks, for predictors that read layer costs.
        metric: that it must predict; None for any.
        unit: that it must answer in; None for any.
        device_fingerprint: of the device that it must be for; None for any.

    Raises:
        PredictorFileError: no such file, not a predictor, damaged, newer format, or not what was asked for.
    """
    path = Path(path)
    head, arrays = _read(path)
    card = _card(path, head)
    try:
        stored = space_from_json(head["space"]["genes"])
        fingerprint, kind, settings = (head["space"]["fingerprint"], head["kind"], head["settings"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise PredictorFileError(f"{path} must be a predictor file, but its description is incomplete.") from error
    if stored.fingerprint != fingerprint:
        raise PredictorFileError(f"{path} must hold the genes of its fingerprint {fingerprint}, but they differ.")
    if space is not None and space.fingerprint != fingerprint:
        raise PredictorFileError(
            f"{path} must be of this search space ({space.fingerprint}), but it is of another ({fingerprint})."
        )
    for name, wanted in (("metric", metric), ("unit", unit)):
        if wanted is not None and getattr(card, name) != wanted:
            raise PredictorFileError(f"{path} must have the {name} {wanted!r}, but it has {getattr(card, name)!r}.")
    if device_fingerprint is not None and dict(device_fingerprint) != dict(card.device_fingerprint):
        keys = {**card.device_fingerprint, **device_fingerprint}
        differs = [k for k in keys if card.device_fingerprint.get(k) != device_fingerprint.get(k)]
        raise PredictorFileError(
            f"{path} must be for this device, but it was fitted on another: "
            f"{differs[0]} was {card.device_fingerprint.get(differs[0])!r}, is {device_fingerprint.get(differs[0])!r}."
        )
    if kind not in KINDS:
        raise PredictorFileError(f"{path} must hold a model out of {sorted(KINDS)}, but it holds {kind!r}.")
    try:
        predictor = KINDS[kind].from_state(
            stored if space is None else space, State(arrays, settings), sources=sources or Sources()
        )
    except (KeyError, TypeError, IndexError) as error:
        raise PredictorFileError(f"{path} must hold a whole {kind} model, but a part is missing: {error}.") from error
    return Loaded(predictor, card)


def read_card(path: str | Path) -> Card:
    """Returns the card of a predictor file, for those who must know what it is about before they load it.

    Raises:
        PredictorFileError: no such file, not a predictor, damaged, or of a newer format.
    """
    path = Path(path)
    return _card(path, _read(path)[0])


def _card(path: Path, head: Mapping[str, Any]) -> Card:
    try:
        return Card(**{f.name: head["card"][f.name] for f in fields(Card)})
    except (KeyError, TypeError) as error:
        raise PredictorFileError(f"{path} must be a predictor file, but its description is incomplete.") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Returns the description and the arrays, after the digest has been checked."""
    if not path.is_file():
        raise PredictorFileError(f"{path} must be a predictor file, but there is no such file.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise PredictorFileError(f"{path} must be a whole predictor file, but it cannot be read: {error}.") from error
    if KEY not in metadata:
        raise PredictorFileError(f"{path} must be a predictor file, but it holds something else.")
    text = metadata[KEY]
    if arrays.keys() == {"empty"}:
        arrays = {}
    if metadata.get("sha256") != _digest(text, arrays):
        raise PredictorFileError(f"{path} must be as it was written, but its content does not match its digest.")
    try:
        head = json.loads(text)
    except ValueError as error:
        raise PredictorFileError(f"{path} must be a predictor file, but its description is no JSON.") from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        found = head.get("format") if isinstance(head, dict) else None
        raise PredictorFileError(f"{path} must have the format version {FORMAT}, but got {found!r}.")
    return head, arrays


def _digest(text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype.str}:{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def genes_to_json(space: SearchSpace) -> list[dict[str, Any]]:
    """Returns the genes of a space as JSON."""
    return [
        {
            "name": gene.name,
            "choices": list(gene.choices),
            "active_when": [{"gene": c.gene, "values": list(c.values)} for c in gene.active_when],
            "aliases": [[alias, target] for alias, target in gene.aliases.items()],
        }
        for gene in space.genes
    ]


def space_from_json(source: list[dict[str, Any]]) -> SearchSpace:
    """Returns the space that `genes_to_json` described. Raises KeyError, TypeError or ValueError for anything else."""
    return SearchSpace(
        [
            Gene(
                gene["name"],
                tuple(gene["choices"]),
                active_when=tuple(Condition(c["gene"], tuple(c["values"])) for c in gene["active_when"]),
                aliases={alias: target for alias, target in gene["aliases"]},
            )
            for gene in source
        ]
    )

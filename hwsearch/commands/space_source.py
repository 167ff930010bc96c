"""Where `--space` leads: a configuration, a YAML file of genes, a run folder or a family's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hwsearch import build
from hwsearch.build import Plan, registry
from hwsearch.commands.network import network_of
from hwsearch.commands.query import run_plan, space_plan
from hwsearch.config import read_yaml
from hwsearch.errors import ConfigError, UserError
from hwsearch.net_scores import NetScores
from predictors.base import LayerFunction, Sources
from search_spaces.genes import Condition, Gene
from search_spaces.space import SearchSpace


@dataclass(frozen=True)
class SpaceSource:
    """A search space, and its networks where it has any.

    Args:
        text: as given.
        space: of architectures.
        plan: of the configuration or family; None for a space of bare genes, which has no costs.
        layers: of the space's networks; None without.
    """

    text: str
    space: SearchSpace
    plan: Plan | None = None
    layers: LayerFunction | None = None

    @property
    def sources(self) -> Sources:
        """What predictors of this space compute with."""
        return Sources(layers=self.layers, scores=self.scores)

    @cached_property
    def scores(self) -> NetScores | None:
        """Zero-cost scores of the space's networks; None without networks."""
        return None if self.plan is None else NetScores(self.plan.supernet(meta=True))

    def network(self) -> dict[str, Any] | None:
        """Returns a configuration, as plain data, that makes the same networks anywhere; None without networks."""
        return None if self.plan is None else network_of(self.plan)


def open_space(text: str) -> SpaceSource:
    """Returns the space that a text names.

    Args:
        text: `CONFIG.yaml` with a `supernet`, `GENES.yaml` with `genes`, the folder of a run, or a family's name.

    Raises:
        UserError: none of these, or something wrong in it.
    """
    path = Path(text)
    if path.suffix in {".yaml", ".yml"}:
        raw = read_yaml(path)
        if "genes" in raw:
            return SpaceSource(text, genes_space(raw, source=text))
        return _of_plan(text, space_plan(path))
    if path.is_dir():
        return _of_plan(text, run_plan(path)[0])
    if text not in registry.FAMILIES and ("/" in text or "." in text):
        raise UserError(f"--space must be a YAML file, the folder of a run or a family's name, but got {text!r}.")
    raw = {"name": "space", "supernet": {"family": text}, "objectives": ["macs"]}
    return _of_plan(text, build.load_raw(raw, source="--space"))


def _of_plan(text: str, plan: Plan) -> SpaceSource:
    return SpaceSource(text, plan.space, plan, plan.supernet(meta=True).layers)


def genes_space(raw: Mapping[str, Any], *, source: str) -> SearchSpace:
    """Returns the space of a mapping `genes: {name: [choices] or {choices, active_when, aliases}}`.

    Raises:
        ConfigError: not of this form; says where.
    """
    extra = sorted(str(key) for key in raw if key not in {"genes", "name"})
    if extra:
        raise ConfigError(f"{source}: a file of genes must hold genes (and a name) only, but has {extra[0]!r}.")
    genes = raw["genes"]
    if not isinstance(genes, dict) or not genes:
        raise ConfigError(f"{source}: genes must be a mapping of names to choices, but got {type(genes).__name__}.")
    made = []
    for name, body in genes.items():
        where = f"{source}: genes.{name}"
        body = {"choices": body} if isinstance(body, list) else body
        if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
            raise ConfigError(f"{where} must be a list of choices, or a mapping with choices.")
        unknown = sorted(str(key) for key in body if key not in {"choices", "active_when", "aliases"})
        if unknown:
            raise ConfigError(f"{where}.{unknown[0]} is not known.")
        when, aliases = body.get("active_when") or {}, body.get("aliases") or {}
        if not isinstance(when, dict) or not all(isinstance(values, list) for values in when.values()):
            raise ConfigError(f"{where}.active_when must map genes to lists of their values.")
        if not isinstance(aliases, dict):
            raise ConfigError(f"{where}.aliases must map choices to choices.")
        try:
            conditions = tuple(Condition(gene, tuple(values)) for gene, values in when.items())
            made.append(Gene(str(name), tuple(body["choices"]), active_when=conditions, aliases=aliases))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{where}: {error}") from error
    try:
        return SearchSpace(made)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error

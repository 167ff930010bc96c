"""The configuration of a run: YAML in, one frozen object out, every problem reported at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hwsearch.errors import ConfigError
from hwsearch.objectives import COST_METRICS, DEVICE_METRICS, MAXIMISED, QUALITY_METRICS, Direction, Objective


class Section(BaseModel):
    """A part of the configuration: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SupernetSection(Section):
    """Which super-network. `params` are the family's own arguments; without `weights` it is trained.

    `weights`: saved by hwsearch, or as published; `sha256`: digest that the file must have.
    """

    family: str
    params: dict[str, Any] = Field(default_factory=dict)
    weights: Path | None = None
    sha256: str | None = None


class SparsitySection(Section):
    """Sparsity genes: pattern names, and what shares a gene."""

    per: Literal["stage", "layer", "model"] = "stage"
    choices: tuple[str, ...] = Field(min_length=1)


class ObjectiveSection(Section):
    """One objective or limit: `latency_ms@cpu`, or a mapping with `metric` and, to limit it, `min` or `max`."""

    metric: str
    device: str | None = None
    direction: Direction | None = None
    min: float | None = None
    max: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"metric": value}
        if isinstance(value, dict) and isinstance(value.get("metric"), str) and "@" in value["metric"]:
            metric, device = value["metric"].split("@", 1)
            value = {**value, "metric": metric, "device": device}
        return value

    def objective(self) -> Objective:
        """Returns the objective that this section describes.

        Raises:
            ValueError: a limit on the wrong side of the direction, or both limits.
        """
        direction = self.direction or ("maximize" if self.metric in MAXIMISED else "minimize")
        if self.min is not None and self.max is not None:
            raise ValueError(f"{self.metric} must have one limit, min or max, but got both.")
        if self.min is not None and direction == "minimize":
            raise ValueError(f"{self.metric} is minimised: its limit must be max, but got min.")
        if self.max is not None and direction == "maximize":
            raise ValueError(f"{self.metric} is maximised: its limit must be min, but got max.")
        units = {**COST_METRICS, **DEVICE_METRICS, **QUALITY_METRICS}
        limit = self.min if self.min is not None else self.max
        return Objective(self.metric, self.device, direction, units.get(self.metric, ""), limit)


class SearchSection(Section):
    """Which engine, and how many architectures to evaluate."""

    engine: str = "nsga2"
    options: dict[str, Any] = Field(default_factory=dict)
    trials: int = Field(default=100, ge=1)


class ExecutorSection(Section):
    """Who carries the work. `workers`: accuracy workers, None for one per core."""

    kind: Literal["ray", "serial"] = "ray"
    workers: int | None = Field(default=None, ge=1)
    address: str | None = None
    retries: int = Field(default=1, ge=0)
    timeout_s: float | None = Field(default=600.0, gt=0)
    lane_batch: int = Field(default=8, ge=1)
    lane_wait_s: float = Field(default=10.0, ge=0)


class EvaluationSection(Section):
    """How a subnet is evaluated. Calibration images come from the train split."""

    calibration_images: int = Field(default=512, ge=1)
    calibration_batch: int = Field(default=128, ge=1)
    batch: int = Field(default=256, ge=1)


class ExportSection(Section):
    """Which nets of the validated front are exported: `all`, or the number of evenly spread ones."""

    nets: Literal["all"] | int = "all"

    @field_validator("nets")
    @classmethod
    def _positive(cls, value: Literal["all"] | int) -> Literal["all"] | int:
        if value != "all" and value < 0:
            raise ValueError("must be 'all' or at least 0")
        return value


class RunConfig(Section):
    """Everything a run is made of. Sections named by the user (`data`, `training`, ...) stay plain data here."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_.-]+$")
    seed: int = Field(default=0, ge=0)
    supernet: SupernetSection
    sparsity: SparsitySection | None = None
    data: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    objectives: tuple[ObjectiveSection, ...] = Field(min_length=1)
    limits: tuple[ObjectiveSection, ...] = ()
    devices: dict[str, dict[str, Any]] = Field(default_factory=dict)
    search: SearchSection = Field(default_factory=SearchSection)
    executor: ExecutorSection = Field(default_factory=ExecutorSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    export: ExportSection = Field(default_factory=ExportSection)
    storage: str | None = None

    def tracked(self) -> tuple[tuple[Objective, ...], tuple[Objective, ...]]:
        """Returns (objectives, everything with a limit), in the config's order."""
        objectives = tuple(o.objective() for o in self.objectives)
        limits = tuple(o for o in objectives if o.limit is not None)
        return objectives, limits + tuple(o.objective() for o in self.limits)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data that `RunConfig` reads back."""
        plain: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=False)
        return plain


def read_yaml(path: Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Returns the mapping in a YAML file, with `key.path=value` overrides applied.

    Raises:
        ConfigError: the file is missing or no mapping, or an override is malformed.
    """
    if not path.is_file():
        raise ConfigError(f"a configuration must be a YAML file, but {path} does not exist.")
    try:
        raw = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} must be valid YAML, but: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold a mapping, but holds {type(raw).__name__}.")
    for override in overrides:
        set_path(raw, override)
    return raw


def set_path(raw: dict[str, Any], override: str) -> None:
    """Applies `a.b.0.c=value` (value in YAML) to nested mappings and lists, in place."""
    key, found, text = override.partition("=")
    if not found or not key.strip():
        raise ConfigError(f"--set must be key=value, but got {override!r}.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key} must have a YAML value, but got {text!r}.") from error
    node: Any = raw
    parts = key.strip().split(".")
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(f"--set {key} must name an entry 0 to {len(node) - 1}, but got {part!r}.")
            if last:
                node[int(part)] = value
            else:
                node = node[int(part)]
        elif isinstance(node, dict):
            if last:
                node[part] = value
            else:
                if node.get(part) is None:
                    node[part] = {}
                node = node[part]
        else:
            raise ConfigError(f"--set {key} must lead through mappings, but {parts[i - 1]!r} is a plain value.")


def parse(raw: Mapping[str, Any]) -> tuple[RunConfig | None, list[str]]:
    """Returns the configuration and all problems of its general shape; None if there are any."""
    try:
        config = RunConfig.model_validate(dict(raw))
    except ValidationError as error:
        return None, describe(error, "", RunConfig.model_fields)
    problems = []
    for where, sections in (("objectives", config.objectives), ("limits", config.limits)):
        for i, section in enumerate(sections):
            try:
                objective = section.objective()
            except ValueError as error:
                problems.append(f"{where}.{i}: {error}")
                continue
            if where == "limits" and objective.limit is None:
                problems.append(f"limits.{i}: {objective.name} must give min or max.")
    return (None if problems else config), problems


def raise_problems(problems: Sequence[str], source: str) -> None:
    """Raises one ConfigError that lists all problems, if there are any."""
    if len(problems) == 1:
        raise ConfigError(f"{source}: {problems[0]}")
    if problems:
        raise ConfigError(f"{source}: {len(problems)} problems:\n" + "\n".join(f"  - {p}" for p in problems))


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns ` (nearest: 'x')` or nothing."""
    found = difflib.get_close_matches(str(name), list(valid), n=1)
    return f" (nearest: {found[0]!r})" if found else ""


def describe(error: ValidationError, where: str, valid: Iterable[str]) -> list[str]:
    """Returns one line per problem that pydantic found: path, what must hold, what was got."""
    lines = []
    for item in error.errors():
        loc = [
            str(part) for part in item["loc"] if not re.fullmatch(r"(function|tagged|literal|int|str)\b.*", str(part))
        ]
        path = ".".join([*([where] if where else []), *loc])
        got = item.get("input")
        if item["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
            names = valid if len(loc) == 1 else _fields_at(loc[:-1])
            lines.append(f"{path} is not known{nearest(loc[-1], names)}.")
        elif item["type"] in {"missing", "missing_keyword_only_argument", "missing_argument"}:
            lines.append(f"{path} is missing.")
        else:
            message = item["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            message = message.removeprefix("input should ").removeprefix("must ").rstrip(".")
            shown = repr(got) if len(repr(got)) < 80 else type(got).__name__
            lines.append(f"{path} must {message}, but got {shown}.")
    return lines


def _fields_at(loc: Sequence[str]) -> list[str]:
    """Returns the valid keys of a nested section of RunConfig, for hints."""
    model: Any = RunConfig
    for part in loc:
        if part.isdigit():
            continue
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
    return list(getattr(model, "model_fields", {}))

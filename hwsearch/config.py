"""The configuration of a run: YAML in, one frozen object out, every problem reported at once."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hwsearch.errors import ConfigError
from hwsearch.objectives import COST_METRICS, DEVICE_METRICS, MAXIMISED, QUALITY_METRICS, Direction, Objective
from hwsearch.problems import describe, key_path, own_errors

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


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


class _ChoicesSection(Section):
    """Choices of genes. `keep`: those that stay although no objective can gain from them, or `all`."""

    choices: tuple[str, ...] = Field(min_length=1)
    keep: Literal["all"] | tuple[str, ...] = ()

    @field_validator("keep", mode="before")
    @classmethod
    def _all_or_list(cls, value: Any) -> Any:
        if value != "all" and not isinstance(value, list | tuple):
            raise ValueError(f"must be 'all' or a list of choices, but got {value!r}.")
        return value

    @model_validator(mode="after")
    def _known(self) -> Self:
        for choice in self.keep if self.keep != "all" else ():
            if choice not in self.choices:
                raise ValueError(f"keep must list some of the choices {list(self.choices)}, but got {choice!r}.")
        return self


class SparsitySection(_ChoicesSection):
    """Sparsity genes: pattern names, and what shares a gene."""

    per: Literal["stage", "layer", "model"] = "stage"


class PrecisionSection(_ChoicesSection):
    """The gene `precision`. A device measures the nets whose precision it admits."""

    per: Literal["model"] = "model"


class DecidedSection(Section):
    """What is left of the choices, as it was decided when the run first started; written by hwsearch.

    `precision`: empty where there is no such gene. `channel_multiple`: what kept channels of a given model are rounded
    to; None: as the configuration says. `dropped`: a line per choice that is not searched, and per one that was made.
    """

    sparsity: tuple[str, ...] | None = None
    precision: tuple[str, ...] | None = None
    channel_multiple: int | None = None
    dropped: tuple[str, ...] = ()


def _compared(text: str) -> dict[str, Any]:
    """Returns `latency_ms@cpu <= 20` (or `>=`) as a mapping; a text without comparison is the metric."""
    for sign, side in (("<=", "max"), (">=", "min")):
        metric, found, value = text.partition(sign)
        if found:
            try:
                return {"metric": metric.strip(), side: float(value)}
            except ValueError:
                raise ValueError(f"must be as in 'latency_ms@cpu <= 20', but got {text!r}.") from None
    return {"metric": text}


class ObjectiveSection(Section):
    """One objective or limit: `latency_ms@cpu`, `latency_ms@cpu <= 20`, or a mapping with `metric`, `min`, `max`."""

    metric: str
    device: str | None = None
    direction: Direction | None = None
    min: float | None = None
    max: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = _compared(value)
        if not isinstance(value, dict | ObjectiveSection):
            raise ValueError(f"must be a metric or a mapping, but got {value!r}.")
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
    """Which engine, and how many architectures to evaluate.

    `stop_below`: end when the engine expects the front's hypervolume to grow by a smaller share; `max_minutes`: or
    after so long; `warm_start`: folders of earlier runs, or CSV tables, whose results the engine may use as hints;
    `contenders`: trials that the labels' front misses are validated with it if they are on the true front with at least
    this probability, where the engine can say it; None: none of them.
    """

    engine: str = "pareto"
    options: dict[str, Any] = Field(default_factory=dict)
    trials: int = Field(default=100, ge=1)
    stop_below: float | None = Field(default=None, gt=0, lt=1)
    max_minutes: float | None = Field(default=None, gt=0)
    warm_start: tuple[Path, ...] = ()
    contenders: float | None = Field(default=0.2, gt=0, le=1)


class WorkerSection(Section):
    """What one accuracy worker needs; GPUs may be shared: 0.25."""

    cpus: float = Field(default=1.0, gt=0)
    gpus: float = Field(default=0.0, ge=0)
    memory_gb: float = Field(default=0.0, ge=0)


class TrainingPlaceSection(WorkerSection):
    """Where a super-network is trained: in the run's own process, or by so many `workers` that share every batch.

    The resources are those of one worker. `retries`: how often it goes on from its last epoch after a worker was lost.
    `storage`: a URL of fsspec (`s3://bucket/run`) that keeps the checkpoint as well; None: the run's folder does.
    """

    workers: int | None = Field(default=None, ge=1)
    retries: int = Field(default=3, ge=0)
    storage: str | None = None


class ExecutorSection(Section):
    """Who carries the work. `workers`: accuracy workers at most, None for as many as fit.

    `address`: of a running Ray cluster (`auto`: the one of this machine); None starts Ray here. `absent_s`: how long
    nothing may be up for what waits before the run ends, to be continued. `namespace`, `runtime_env`: as in Ray.
    """

    kind: Literal["ray", "serial"] = "ray"
    workers: int | None = Field(default=None, ge=1)
    address: str | None = None
    accuracy: WorkerSection = Field(default_factory=WorkerSection)
    training: TrainingPlaceSection = Field(default_factory=TrainingPlaceSection)
    absent_s: float = Field(default=600.0, gt=0)
    namespace: str | None = None
    runtime_env: dict[str, Any] | None = None
    retries: int = Field(default=1, ge=0)
    timeout_s: float | None = Field(default=600.0, gt=0)
    lane_batch: int = Field(default=8, ge=1)
    lane_wait_s: float = Field(default=10.0, ge=0)


class EvaluationSection(Section):
    """How a subnet is evaluated. Calibration images come from the train split.

    `task: fidelity` needs no labels: it compares with the original, by `fidelity`. `function` is the user's own
    (`module:name` or `file.py:name`): it takes a module and returns a dict of metrics.

    `calibration_images` set the statistics of BatchNorm, the first `quantization_images` of them the ranges of int8.
    """

    calibration_images: int = Field(default=512, ge=1)
    calibration_batch: int = Field(default=128, ge=1)
    quantization_images: int = Field(default=128, ge=1)
    batch: int = Field(default=256, ge=1)
    task: Literal["classification", "fidelity"] = "classification"
    fidelity: Literal["logits", "embeddings", "similarities"] = "logits"
    function: str | None = None


class ExportSection(Section):
    """Which nets of the validated front are exported: `all`, or the number of evenly spread ones.

    `license`: of the weights, for the cards.
    """

    nets: Literal["all"] | int = "all"
    license: str | None = None

    @field_validator("nets", mode="before")
    @classmethod
    def _all_or_count(cls, value: Any) -> Any:
        if value != "all" and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise ValueError(f"must be 'all' or a whole number of at least 0, but got {value!r}.")
        return value


class RunConfig(Section):
    """Everything a run is made of. Sections named by the user (`data`, `training`, ...) stay plain data here.

    `logging`: where progress is shown besides the record: `tensorboard`, `mlflow`.
    """

    name: str
    seed: int = Field(default=0, ge=0)
    supernet: SupernetSection
    sparsity: SparsitySection | None = None
    precision: PrecisionSection | None = None
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
    logging: tuple[str, ...] = ()
    decided: DecidedSection | None = None

    @field_validator("name")
    @classmethod
    def _file_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(f"must be letters, digits, '_', '-' and '.', not '.' first, but got {name!r}.")
        return name

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data that `RunConfig` reads back."""
        plain: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=False)
        return plain


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error, not an override."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen and key_node.value != "<<":
                    where = f"line {key_node.start_mark.line + 1}"
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key_node.value!r} is given twice, {where}"
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Returns the mapping in a YAML file, with `key.path=value` overrides applied.

    Raises:
        ConfigError: the file is missing or no mapping, or an override is malformed.
    """
    if not path.is_file():
        raise ConfigError(f"a configuration must be a YAML file, but {path} does not exist.")
    try:
        raw = yaml.load(path.read_text(), _Loader)
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
        value = yaml.load(text, _Loader)
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


def absolute_paths(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration with the paths of data and weights made absolute.

    What is stored in a run folder then means the same from any working directory and in any worker.
    """
    out = dict(raw)
    for section, key in (("data", "path"), ("supernet", "weights")):
        values = out.get(section)
        if isinstance(values, dict) and isinstance(values.get(key), str):
            out[section] = {**values, key: str(Path(values[key]).expanduser().absolute())}
    supernet = out.get("supernet")
    if isinstance(supernet, dict) and isinstance(supernet.get("params"), dict):
        out["supernet"] = {**supernet, "params": _absolute_files(supernet["params"])}
    for section in ("data", "evaluation"):
        if isinstance(out.get(section), dict):
            out[section] = _absolute_files(out[section])
    return out


def _absolute_files(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values with `file.py:function` made absolute."""
    out = dict(values)
    for key, value in values.items():
        if isinstance(value, str) and re.fullmatch(r".+\.py:\w+", value):
            file, _, name = value.rpartition(":")
            out[key] = f"{Path(file).expanduser().absolute()}:{name}"
    return out


@dataclass(frozen=True)
class Parsed:
    """What could be read of a configuration.

    Args:
        config: without its bad parts, so that the names in the rest can still be checked; None if that is hopeless.
        problems: one line each; `config` is complete only if there are none.
        left_out: paths of the bad parts.
    """

    config: RunConfig | None
    problems: tuple[str, ...]
    left_out: frozenset[str]


PLACEHOLDERS: Mapping[str, Any] = {
    "name": "unnamed",
    "supernet": {"family": ""},
    "supernet.family": "",
    "objectives": ["macs"],
}
"""What stands for a required part that is bad or missing while the rest is checked."""


def parse(raw: Mapping[str, Any]) -> Parsed:
    """Returns the configuration and all problems of its general shape."""
    rest = copy.deepcopy(dict(raw))
    problems: list[str] = []
    left_out: set[str] = set()
    for attempt in range(3):
        try:
            return Parsed(RunConfig.model_validate(rest), tuple(problems), frozenset(left_out))
        except ValidationError as error:
            if attempt == 0:  # later ones are about what was left out
                problems = describe(error, rest, where="", schema=RunConfig)
            paths = [key_path(item, rest) for item in own_errors(error)]
        for path in paths:
            left_out.add(_leave_out(rest, path))
    return Parsed(None, tuple(problems), frozenset(left_out))


def _leave_out(raw: dict[Any, Any], path: Sequence[str | int]) -> str:
    """Takes a bad part out of a raw configuration, or puts a placeholder there; returns the path of the part."""
    if not path:  # keys that are no strings
        for key in [key for key in raw if not isinstance(key, str)]:
            del raw[key]
        return ""
    top = path[0]
    if top in ("objectives", "limits") and len(path) > 1:
        raw[top][path[1]] = {"metric": "macs", "max": 1}  # the others keep their places
        return f"{top}.{path[1]}"
    nested = len(path) > 1 and isinstance(raw.get(top), dict)
    owner, key = (raw[top], path[1]) if nested else (raw, top)
    name = f"{top}.{key}" if nested else str(top)
    owner.pop(key, None)
    if name in PLACEHOLDERS:
        owner[key] = copy.deepcopy(PLACEHOLDERS[name])
    return name


def raise_problems(problems: Sequence[str], source: str) -> None:
    """Raises one ConfigError that lists all problems, if there are any."""
    if len(problems) == 1:
        raise ConfigError(f"{source}: {problems[0]}")
    if problems:
        raise ConfigError(f"{source}: {len(problems)} problems:\n" + "\n".join(f"  - {p}" for p in problems))


def json_schema() -> str:
    """Returns the JSON Schema of a configuration (draft 2020-12), for editors: names of keys, types and ranges.

    Objectives may be written short. Names of families, engines and devices, and their settings, are not in it: those
    that are installed decide, and `build` reports them.
    """
    schema = RunConfig.model_json_schema()
    section = schema["$defs"]["ObjectiveSection"]
    schema["$defs"]["ObjectiveSection"] = {"anyOf": [{"type": "string"}, section]}
    schema["properties"].pop("decided")  # written by hwsearch
    del schema["$defs"]["DecidedSection"]
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(schema, indent=2) + "\n"

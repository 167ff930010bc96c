"""A configuration becomes a plan: its names are objects here, its heavy parts are made on request."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hwsearch import checkpoints
from hwsearch import config as configuration
from hwsearch.build.registry import EXECUTORS, engine_of, engine_target, named, search_engine
from hwsearch.build.sections import (
    devices_of,
    engine_problems,
    executor_problems,
    family_of,
    open_data,
    precisions_of,
    scorer_of,
    space_of,
    sparsity_of,
    training_of,
)
from hwsearch.config import Parsed, RunConfig
from hwsearch.data.dataset import Dataset
from hwsearch.devices.base import Device, DeviceSpec
from hwsearch.distribution.executor import Executor
from hwsearch.distribution.jobs import AccuracyWorker, LaneWorker, Limits, Resources
from hwsearch.distribution.workers import DeviceLane, NetworkWorker
from hwsearch.engines.base import ExactLosses, SearchEngine
from hwsearch.engines.exact import ExactCosts
from hwsearch.engines.warm_start import Source
from hwsearch.errors import ConfigError
from hwsearch.export.base import Exporter
from hwsearch.objectives import Objective
from hwsearch.tracked import Tracked, is_quality
from search_spaces.space import SearchSpace
from search_spaces.supernet import Family, SparsityGenes, Supernet


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

    def sinks(self, folder: Path) -> list[Any]:
        """Returns what the run's progress is told to besides its record, opened for the run in `folder`."""
        return [named("sinks", name, "logging")(folder, self.config.name) for name in self.config.logging]

    def training(self) -> Any:
        """Returns the frozen training settings, or None."""
        return training_of(self.config, self.dataset)

    def place(self) -> Any:
        """Returns where on Ray the super-network is trained; None: in this process."""
        section = self.config.executor
        if section.training.workers is None:
            return None
        needs, target = section.training, import_module("hwsearch.distribution.ray_training").Place
        return target(
            needs.workers,
            Resources(needs.cpus, needs.gpus, needs.memory_gb * 1e9),
            retries=needs.retries,
            storage=needs.storage,
            address=section.address,
            namespace=section.namespace,
            runtime_env=section.runtime_env,
        )

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
                run=self.config.name,
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
    family = attempt(lambda: family_of(config, dataset, shaped=shaped)) if good("supernet", "supernet.family") else None
    sparsity = attempt(lambda: sparsity_of(config)) if config.sparsity is not None else None
    specs, types, unavailable = devices_of(config, attempt)
    # A spec with problems has its own line already; its objectives are judged by what the runtime can measure at most.
    measured = {name: kind.measures(specs[name]) if name in specs else kind.metrics for name, kind in types.items()}
    problems += tracked.problems_of_places(config, measured, left_out=parsed.left_out)
    needed = {o.device: specs[o.device] for o in tracked.by_path.values() if o.device in specs}
    missing = [unavailable[name] for name in needed if name in unavailable]
    if missing and len(missing) == len(needed):
        problems += missing
    precisions = attempt(lambda: precisions_of(config, needed)) or ()
    space = None
    if family is not None and (sparsity is not None or config.sparsity is None):
        space = attempt(lambda: space_of(family, sparsity, precisions))
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
    attempt(made.engine if made is not None else lambda: engine_problems(config))
    attempt(lambda: training_of(config, dataset))
    brings = family is not None and family.has_weights
    if config.evaluation.function is not None or config.evaluation.task == "fidelity":
        attempt(lambda: scorer_of(config, family, dataset))
    if scored and not brings and not (config.supernet.weights or config.training) and good("training", "supernet"):
        problems.append("training (or supernet.weights) must be given when an objective needs a trained network.")
    attempt(lambda: executor_problems(config))
    for name in config.logging:
        attempt(partial(_require_sink, name))
    configuration.raise_problems(list(dict.fromkeys(problems)), source)
    assert made is not None
    return made


def _require_sink(name: str) -> None:
    named("sinks", name, "logging").require()


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
            scorer=scorer_of(made.config, made.family, made.dataset) if made.needs_network else None,
        )

    def training(self) -> tuple[Supernet, Dataset, Any]:
        """Returns what a worker trains; the driver's weights replace those of the super-network."""
        made = load_raw(self.raw, source="config")
        assert made.dataset is not None
        return made.supernet(), made.dataset, made.training()

    def lane(self, device: str) -> LaneWorker:
        """Returns the measuring lane of a device."""
        made = load_raw(self.raw, source="config")
        return DeviceLane(made.device(device))

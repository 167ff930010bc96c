"""Workers: plain Python objects that evaluate subnets or measure artifacts, wherever an executor puts them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hwsearch.data.dataset import Dataset, Split
from hwsearch.devices.base import Device
from hwsearch.distribution.jobs import EvaluateJob, MeasureJob, MeasureResult, one_line
from hwsearch.errors import DeviceError, UserError
from hwsearch.evaluation import Score, calibration_batches, evaluate, evaluate_artifact, first
from hwsearch.export.base import Exporter
from hwsearch.export.weights import encode, patterns_of
from hwsearch.own_model import Scorer
from hwsearch.results import Artifact, Evaluation
from search_spaces.architecture import Architecture
from search_spaces.batchnorm import recalibrate
from search_spaces.precision import GENE as PRECISION
from search_spaces.supernet import Supernet

WEIGHTS = "weights"
"""Name under which a hold-out evaluation returns the subnet's own weights."""


@dataclass
class _Made:
    """Artifacts of one network: by device, by format, and the exporters whose engines run them."""

    by_device: dict[str, Artifact] = field(default_factory=dict)
    by_kind: dict[str, Artifact] = field(default_factory=dict)
    engines: list[Exporter] = field(default_factory=list)


class InEngine(nn.Module):
    """An artifact as a module: runs in its engine."""

    def __init__(self, exporter: Exporter, artifact: Artifact) -> None:
        super().__init__()
        self.exporter, self.artifact = exporter, artifact

    def forward(self, *inputs: Tensor) -> Tensor:
        """Returns the artifact's output."""
        return torch.from_numpy(self.exporter.run(self.artifact, tuple(x.numpy() for x in inputs)))


class NetworkWorker:
    """Evaluates subnets: extract, recalibrate, score, export; always the one extracted module.

    Args:
        supernet: with its weights.
        dataset: None when no objective needs a trained network.
        exporters: device name -> exporter; None: the device reads costs alone.
        admitted: device name -> precisions of the networks that it measures; None: all of them.
        engine_of: precision -> exporter whose engine scores it where no device has one.
        precision: of networks whose space has no such gene.
        quantization_images: inputs of the train split that set the ranges of int8.
        calibration_images: inputs of the train split for BatchNorm.
        calibration_batch: of them at a time.
        batch: examples at a time when scoring.
        threads: of torch while a job runs: rounding, and so weights, depend on it; None leaves them.
        has_weights: whether the super-network has any; False where only costs count.
        scorer: scores instead of the labels of the data.
    """

    def __init__(
        self,
        supernet: Supernet,
        dataset: Dataset | None,
        *,
        exporters: Mapping[str, Exporter | None],
        admitted: Mapping[str, Sequence[str]] | None = None,
        engine_of: Callable[[str], Exporter] | None = None,
        precision: str = "fp32",
        quantization_images: int = 128,
        calibration_images: int = 512,
        calibration_batch: int = 128,
        batch: int = 256,
        threads: int | None = 1,
        has_weights: bool = True,
        scorer: Scorer | None = None,
    ) -> None:
        self.scorer = scorer
        self.threads = threads
        self.supernet, self.dataset, self.exporters, self.batch = supernet, dataset, dict(exporters), batch
        self.admitted, self.engine_of, self.quantization_images = admitted, engine_of, quantization_images
        self.precision = precision
        self.has_weights = has_weights
        self._calibration = (
            calibration_batches(dataset.train, n=calibration_images, batch_size=calibration_batch) if dataset else []
        )

    def evaluate(self, job: EvaluateJob) -> tuple[Evaluation, dict[str, Artifact]]:
        """Returns metrics and artifacts by device. A network that fails is an evaluation with an error."""
        started = time.perf_counter()
        threads = torch.get_num_threads()
        try:
            if self.threads is not None:
                torch.set_num_threads(self.threads)
            arch = self.supernet.space.architecture(job.row)
            metrics: dict[str, float] = {k: float(v) for k, v in self.supernet.layer_costs(arch).metrics().items()}
            costs = dict(metrics)
            stds: dict[str, float] = {}
            attributes: dict[str, object] = {}
            module = self.subnet(arch) if self._needs_module(job) else None
            if module is not None:
                attributes["weights_sha256"] = hashlib.sha256(encode(module.state_dict())).hexdigest()
            precision = str(arch.get(PRECISION, self.precision))
            in_engine = precision != "fp32" and (self.dataset is not None or self.scorer is not None)
            made, refused = self._artifacts(arch, module, costs) if job.artifacts or in_engine else (_Made(), {})
            artifacts = {} if not job.artifacts else made.by_device
            if refused:
                attributes["not_exported"] = {device: one_line(error) for device, error in refused.items()}
                if len(refused) == len(self._places(precision)):
                    raise next(iter(refused.values()))
            if module is not None and self.scorer is not None:
                subject = module if precision == "fp32" else self._in_engine(arch, module, made)
                metrics.update(self.scorer(subject, job.split))
            elif module is not None and self.dataset is not None:
                split = getattr(self.dataset, job.split)
                if precision == "fp32":
                    score = evaluate(module, split, batch_size=self.batch, prepare=lambda x: self._prepare(x, arch))
                else:
                    score, scores = self._score_in_engines(arch, module, made, split)
                    attributes["engine_accuracy"] = scores
                metrics.update(accuracy=score.accuracy, loss=score.loss)
                stds["accuracy"] = score.accuracy_std
            if job.split == "holdout" and module is not None:
                artifacts[WEIGHTS] = self._weights(arch, module, costs)
        except Exception as error:
            return Evaluation({}, seconds=time.perf_counter() - started, error=one_line(error)), {}
        finally:
            torch.set_num_threads(threads)  # the process may be the driver's
        seconds = time.perf_counter() - started
        return Evaluation(metrics, seconds=seconds, stds=stds, attributes=attributes), artifacts

    def subnet(self, arch: Architecture) -> nn.Module:
        """Returns the extracted module with recalibrated BatchNorm statistics, in eval mode."""
        module = self.supernet.extract(arch)
        self.supernet.family.finish(module, arch, self._calibration)
        if self._calibration:
            recalibrate(module, (self._prepare(inputs, arch) for inputs in self._calibration))
        return module

    def _prepare(self, inputs: Tensor, arch: Architecture) -> Tensor:
        return self.supernet.family.prepare(inputs, arch)

    def _places(self, precision: str) -> list[str]:
        return [d for d in self.exporters if self.admitted is None or precision in self.admitted[d]]

    def _in_engine(self, arch: Architecture, module: nn.Module, made: _Made) -> nn.Module:
        """Returns a module that runs the quantised artifact in its engine."""
        precision = str(arch.get(PRECISION, self.precision))
        for exporter in made.engines:
            return InEngine(exporter, made.by_kind[exporter.format])
        assert self.engine_of is not None
        exporter = self.engine_of(precision)
        return InEngine(exporter, self._export(exporter, arch, module, precision, {}))

    def _score_in_engines(
        self, arch: Architecture, module: nn.Module, made: _Made, split: Split
    ) -> tuple[Score, dict[str, float]]:
        """Returns the lowest score that the network's quantised artifacts reach in their engines, and all of them.

        Each kind of artifact is scored once, however many devices measure it.
        """
        precision = str(arch.get(PRECISION, self.precision))
        engines = [(e, made.by_kind[e.format]) for e in made.engines]
        if not engines:
            assert self.engine_of is not None
            exporter = self.engine_of(precision)
            engines = [(exporter, self._export(exporter, arch, module, precision, {}))]
        scores = {
            exporter.format: evaluate_artifact(
                exporter, artifact, split, batch_size=self.batch, prepare=lambda x: self._prepare(x, arch)
            )
            for exporter, artifact in engines
        }
        worst = min(scores.values(), key=lambda score: score.accuracy)
        return worst, {name: score.accuracy for name, score in scores.items()}

    def _export(
        self, exporter: Exporter, arch: Architecture, module: nn.Module, precision: str, costs: dict[str, float]
    ) -> Artifact:
        generator = torch.Generator().manual_seed(0)
        example = self.supernet.family.example_inputs(batch=2, generator=generator, arch=arch)
        inputs: list[tuple[Tensor, ...]] = []
        if precision not in ("fp32", "bf16"):
            inputs = [(self._prepare(x, arch),) for x in first(self._calibration, self.quantization_images)]
            if not inputs:  # nothing is scored either: what matters is time
                inputs = [self.supernet.family.example_inputs(batch=8, generator=generator, arch=arch)]
        return exporter.export(module, example, precision=precision, costs=costs, calibration=inputs)

    def _needs_module(self, job: EvaluateJob) -> bool:
        """Whether the network itself is scored, exported or handed over, and not only its costs counted."""
        handed_over = self.has_weights and job.split == "holdout"
        scored = self.dataset is not None or self.scorer is not None
        return handed_over or scored or any(e is not None for e in self.exporters.values())

    def _artifacts(
        self, arch: Architecture, module: nn.Module | None, costs: dict[str, float]
    ) -> tuple[_Made, dict[str, Exception]]:
        """Returns what the devices that admit the network's precision measure, and why some get nothing."""
        precision = str(arch.get(PRECISION, self.precision))
        made, refused = _Made(), dict[str, Exception]()
        for device in self._places(precision):
            exporter = self.exporters[device]
            kind = exporter.format if exporter is not None else "costs"
            if kind not in made.by_kind:
                if exporter is None:
                    content = json.dumps({"architecture": arch.key, "costs": costs}, sort_keys=True).encode()
                    made.by_kind[kind] = Artifact(
                        "costs", precision, {"costs.json": content}, "costs.json", costs=costs
                    )
                else:
                    assert module is not None
                    try:
                        made.by_kind[kind] = self._export(exporter, arch, module, precision, costs)
                        made.engines.append(exporter)
                    except (UserError, DeviceError) as error:
                        refused[device] = error
                        continue
            made.by_device[device] = made.by_kind[kind]
        return made, refused

    def _weights(self, arch: Architecture, module: nn.Module, costs: dict[str, float]) -> Artifact:
        """Returns the subnet's weights: plain, and in the encoding whose size is `stored_bytes`."""
        state = module.state_dict()
        patterns = patterns_of(self.supernet.layer_costs(arch).layers)
        files = {"model.safetensors": encode(state), "model.sparse.safetensors": encode(state, patterns)}
        return Artifact("safetensors", "fp32", files, "model.safetensors", costs=costs)


class DeviceLane:
    """Measures artifacts on one device; an artifact that breaks it alone does not spoil the others."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def measure(self, job: MeasureJob) -> list[MeasureResult]:
        """Returns metric -> measurement per artifact, or one line why there is none."""
        if job.reference_ms is not None:
            self.device.reference_ms = job.reference_ms
        return self._measure(job.artifacts)

    def _measure(self, artifacts: Sequence[Artifact]) -> list[MeasureResult]:
        try:
            return [dict(result) for result in self.device.measure(artifacts)]
        except Exception as error:
            if len(artifacts) == 1:
                return [one_line(error)]
        return [result for artifact in artifacts for result in self._measure([artifact])]

"""Workers: plain Python objects that evaluate subnets or measure artifacts, wherever an executor puts them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from hwsearch.data.dataset import Dataset
from hwsearch.devices.base import Device
from hwsearch.distribution.jobs import EvaluateJob, MeasureJob, MeasureResult, one_line
from hwsearch.evaluation import calibration_batches, evaluate
from hwsearch.export.base import Exporter
from hwsearch.export.weights import encode, patterns_of
from hwsearch.results import Artifact, Evaluation
from search_spaces.architecture import Architecture
from search_spaces.batchnorm import recalibrate
from search_spaces.supernet import Supernet

WEIGHTS = "weights"
"""Name under which a hold-out evaluation returns the subnet's own weights."""


class NetworkWorker:
    """Evaluates subnets: extract, recalibrate, score, export; always the one extracted module.

    Args:
        supernet: with its weights.
        dataset: None when no objective needs a trained network.
        exporters: device name -> (exporter, precision); no exporter: the device reads costs alone.
        calibration_images: inputs of the train split for BatchNorm.
        calibration_batch: of them at a time.
        batch: examples at a time when scoring.
        threads: of torch while a job runs: rounding, and so weights, depend on it; None leaves them.
        has_weights: whether the super-network has any; False where only costs count.
    """

    def __init__(
        self,
        supernet: Supernet,
        dataset: Dataset | None,
        *,
        exporters: Mapping[str, tuple[Exporter | None, str]],
        calibration_images: int = 512,
        calibration_batch: int = 128,
        batch: int = 256,
        threads: int | None = 1,
        has_weights: bool = True,
    ) -> None:
        self.threads = threads
        self.supernet, self.dataset, self.exporters, self.batch = supernet, dataset, dict(exporters), batch
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
            if module is not None and self.dataset is not None:
                score = evaluate(
                    module,
                    getattr(self.dataset, job.split),
                    batch_size=self.batch,
                    prepare=lambda inputs: self.supernet.family.prepare(inputs, arch),
                )
                metrics.update(accuracy=score.accuracy, loss=score.loss)
                stds["accuracy"] = score.accuracy_std
            artifacts = self._artifacts(arch, module, costs) if job.artifacts else {}
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
        if self._calibration:
            recalibrate(module, (self.supernet.family.prepare(inputs, arch) for inputs in self._calibration))
        return module

    def _needs_module(self, job: EvaluateJob) -> bool:
        """Whether the network itself is scored, exported or handed over, and not only its costs counted."""
        handed_over = self.has_weights and job.split == "holdout"
        return handed_over or self.dataset is not None or any(e is not None for e, _ in self.exporters.values())

    def _artifacts(self, arch: Architecture, module: nn.Module | None, costs: dict[str, float]) -> dict[str, Artifact]:
        made: dict[tuple[str, str], Artifact] = {}
        out = {}
        for device, (exporter, precision) in self.exporters.items():
            key = (exporter.format if exporter else "costs", precision)
            if key not in made:
                if exporter is None:
                    content = json.dumps({"architecture": arch.key, "costs": costs}, sort_keys=True).encode()
                    made[key] = Artifact("costs", precision, {"costs.json": content}, "costs.json", costs=costs)
                else:
                    assert module is not None
                    example = self.supernet.family.example_inputs(
                        batch=2, generator=torch.Generator().manual_seed(0), arch=arch
                    )
                    made[key] = exporter.export(module, example, precision=precision, costs=costs)
            out[device] = made[key]
        return out

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

"""The contract of devices and exporters, and the frozen description of a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from hwsearch.results import Artifact, Measurement


class DeviceSpec(BaseModel):
    """Where and how something is measured; from YAML, frozen.

    Fields:
        name: how objectives refer to it (`latency_ms@name`).
        runtime: backend name.
        threads: intra-operator threads of the runtime.
        batch: examples per timed call; latency_ms is per call.
        precisions: admitted precisions; the first is the default.
        clock: `wall`, or `cpu` (process CPU time; one-thread lanes only).
        warmup, repeats, max_seconds: the timing protocol (see `timing.py`).
        target_ci: stop repeating when the 95 % half-width of the median is below this share of it.
        options: backend-specific settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_.-]+$")
    runtime: str = "onnxruntime"
    threads: int = Field(default=1, ge=1)
    batch: int = Field(default=1, ge=1)
    precisions: tuple[str, ...] = ("fp32",)
    clock: Literal["wall", "cpu"] = "wall"
    warmup: int = Field(default=3, ge=0)
    repeats: int = Field(default=20, ge=3)
    max_seconds: float = Field(default=5.0, gt=0)
    target_ci: float = Field(default=0.03, gt=0)
    address: str | None = None
    options: Mapping[str, str | int | float | bool | None] = Field(default_factory=dict)


class Exporter(ABC):
    """Turns a plain module into the bytes that a runtime opens, and runs them."""

    format: str

    @abstractmethod
    def export(
        self, module: nn.Module, example: tuple[Tensor, ...], *, precision: str = "fp32", costs: Mapping[str, float]
    ) -> Artifact:
        """Returns the artifact of `module`; the module is left as it was. Batch is dynamic where the format can.

        Raises:
            UserError: the module cannot be exported; names the operator.
        """

    @abstractmethod
    def run(self, artifact: Artifact, inputs: tuple[NDArray[np.generic], ...]) -> NDArray[np.float32]:
        """Returns the artifact's output on a batch, computed by the real runtime."""


class Device(ABC):
    """Measures artifacts. Made from its spec alone, inside the process that measures."""

    metrics: tuple[str, ...] = ("latency_ms",)
    """What `measure` gives, without the device's name."""
    exclusive: bool = True
    """Whether measuring needs the host's cores to itself."""

    def __init__(self, spec: DeviceSpec) -> None:
        self.spec = spec

    @abstractmethod
    def exporter(self) -> Exporter:
        """Returns the exporter that makes what this device measures."""

    @abstractmethod
    def measure(self, artifacts: Sequence[Artifact]) -> list[Mapping[str, Measurement]]:
        """Returns metric -> measurement per artifact, interleaved with each other and with the reference net.

        Raises:
            DeviceError: the device or its runtime failed.
        """

    @abstractmethod
    def fingerprint(self) -> Mapping[str, str | int | float | bool | None]:
        """Returns what numbers depend on: runtime and its version, threads, CPU model, ... JSON-able."""

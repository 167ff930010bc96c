"""The contract of devices, and the frozen description of a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hwsearch.errors import UserError
from hwsearch.results import Artifact, Measurement

Option = str | int | float | bool | None
Fingerprint = Mapping[str, Option]


class DeviceSpec(BaseModel):
    """Where and how something is measured; from YAML, frozen.

    Fields:
        name: how objectives refer to it (`latency_ms@name`).
        runtime: backend name.
        threads: intra-operator threads of the runtime.
        batch: examples per timed call; latency_ms is per call.
        precisions: admitted precisions; the first is the default.
        clock: `running`, wall time less what the timed thread waited for a core that others had (lanes of one thread
            on a Linux CPU; elsewhere it is `wall`; see `clock_of`); `wall`; or `cpu`, process CPU time (one thread).
        warmup, repeats, max_seconds: the timing protocol (see `timing.py`): least number of warm-up calls and of
            repeats, and seconds per artifact after which repeating ends.
        target_ci: stop repeating when the 95 % half-width of the median is below this share of it.
        protocol: `default`, or `fast`: exactly `repeats` rounds, whatever the interval is then; it is stated.
        reference_ms: latency of the reference net that values are normalised to (see `Device`); None until it is
            known. Measure it once, then freeze it here.
        reference: which reference net: `large` (a small MobileNet) or `small`, for nets of a fraction of a
            millisecond. The nearer it is to the nets, the better it feels what they feel.
        card: file of the capability card (`hwsearch profile`); None: `devices/<name>.card.json`, where that fits.
        cores: which cores this process may use while it measures; None: as it is.
        options: backend-specific settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_.-]+$")
    runtime: str = "onnxruntime"
    threads: int = Field(default=1, ge=1)
    batch: int = Field(default=1, ge=1)
    precisions: tuple[str, ...] = Field(default=("fp32",), min_length=1)
    clock: Literal["running", "wall", "cpu"] = "running"
    warmup: int = Field(default=3, ge=0)
    repeats: int = Field(default=20, ge=3)
    max_seconds: float = Field(default=5.0, gt=0)
    target_ci: float = Field(default=0.03, gt=0)
    protocol: Literal["default", "fast"] = "default"
    address: str | None = None
    reference_ms: float | None = Field(default=None, gt=0)
    reference: Literal["large", "small"] = "large"
    cores: tuple[int, ...] | None = Field(default=None, min_length=1)
    card: str | None = None
    options: Mapping[str, Option] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _cpu_clock_needs_one_thread(self) -> Self:
        if self.clock == "cpu" and self.threads != 1:
            raise ValueError(f"clock 'cpu' must be used with threads: 1, but got threads: {self.threads}.")
        return self

    def check_options(self, known: Collection[str]) -> None:
        """Raises UserError if `options` has a key that is not in `known`."""
        for key in self.options:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known are: {', '.join(sorted(known)) or 'none'}."
                raise UserError(f"device {self.name}: runtime {self.runtime} has no option {key!r}{hint}")


class Device(ABC):
    """Measures artifacts. Made from its spec alone, inside the process that measures.

    The constructor checks the spec and connects to nothing: a configuration is checked by making its devices.

    Times are ratios. Speed drifts by 10 to 20 % between days, hosts and neighbours, so every measuring run of a
    timing device also times a fixed reference net, and a latency is

        value = median over the rounds of (artifact / reference) * reference_ms,       raw = median of the artifact.

    `reference_ms` is the spec's. Where the spec has none, the first `measure` of a Device object takes the median
    that it found itself, keeps it for as long as the object lives, and reports it in `Device.reference_ms`: the
    caller freezes it (`spec.model_copy(update={"reference_ms": ...})`) and gives it to every later Device.
    """

    metrics: tuple[str, ...] = ("latency_ms",)
    """What `measure` gives unless the spec asks for more, without the device's name."""
    formats: tuple[str, ...] = ()
    """Artifact formats that it opens, the preferred one first; none: it reads `Artifact.costs` alone."""
    settings_hint: str = ""
    """What has to be set before anything can be measured, where nothing works without settings."""
    exclusive: bool = True
    """Whether measuring needs the host's cores to itself, unless the spec says otherwise."""

    def __init__(self, spec: DeviceSpec) -> None:
        self.spec = spec
        self.reference_ms: float | None = spec.reference_ms

    @classmethod
    def opens(cls, spec: DeviceSpec) -> tuple[str, ...]:
        """Returns the artifact formats that a device of this spec takes, the preferred one first."""
        return cls.formats

    @classmethod
    def measures(cls, spec: DeviceSpec) -> tuple[str, ...]:
        """Returns what a device of this spec measures, without the device's name."""
        return cls.metrics

    @classmethod
    def occupies_host(cls, spec: DeviceSpec) -> bool:
        """Returns whether measuring on a device of this spec needs the cores of this host to itself."""
        return cls.exclusive

    @classmethod
    def skips_zeros(cls, spec: DeviceSpec, pattern: str) -> bool | None:
        """Returns whether weights of a sparsity pattern cost less than dense ones; None: only measuring would tell.

        What is known of the engine itself. Where it is None, a search keeps the pattern unless a card says otherwise.
        """
        return None

    @abstractmethod
    def measure(self, artifacts: Sequence[Artifact]) -> list[Mapping[str, Measurement]]:
        """Returns metric -> measurement per artifact, interleaved with each other and with the reference net.

        Raises:
            UserError: an artifact has a format or precision that the device does not take.
            DeviceError: the device or its runtime failed; where one artifact is the cause, the message names it.
        """

    @abstractmethod
    def fingerprint(self) -> Fingerprint:
        """Returns what numbers depend on: runtime and its version, threads, CPU model, ... JSON-able."""

    def check(self, artifact: Artifact) -> None:
        """Raises UserError unless the artifact's format and precision are taken by this device."""
        if self.formats and artifact.format not in self.formats:
            raise UserError(
                f"device {self.spec.name} must be given {' or '.join(self.formats)} artifacts, "
                f"but got {artifact.format!r}."
            )
        if artifact.precision not in self.spec.precisions:
            raise UserError(
                f"device {self.spec.name} admits precision {', '.join(self.spec.precisions)}, "
                f"but got {artifact.precision!r}."
            )

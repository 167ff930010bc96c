"""What travels: measurements, evaluations, artifacts and the history that engines see."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


class State(IntEnum):
    """Of a trial. RUNNING is known to the driver only."""

    RUNNING = 0
    FINISHED = 1
    FAILED = 2


@dataclass(frozen=True)
class Measurement:
    """One measured number.

    Args:
        value: the number that counts, in `unit`.
        std: spread of the value (standard error where it is a median of repeats); NaN when unknown.
        unit: ms, bytes, mJ, ...
        repeats: how many samples are behind it.
        raw: the value before it was normalised to the reference net; equal to `value` when it was not.
        environment: what it was measured with (runtime, threads, CPU, ...), JSON-able.
    """

    value: float
    std: float
    unit: str
    repeats: int = 1
    raw: float | None = None
    environment: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What a worker returns for one trial. An error is data: `error` is set and the metrics may be incomplete.

    Args:
        metrics: name (`accuracy`, `latency_ms@cpu`, ...) -> value in the user's direction and unit.
        stds: spread of some of them.
        seconds: wall time the worker spent.
        error: one line, or None.
        attributes: JSON-able extras, stored with the record.
    """

    metrics: Mapping[str, float]
    seconds: float
    error: str | None = None
    stds: Mapping[str, float] = field(default_factory=dict)
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """An exported subnet: what is measured is what is handed over.

    Args:
        format: `onnx`, `torch`, `openvino`, ...
        precision: `fp32`, `bf16`, `int8`.
        files: file name -> content.
        entry: the file that a runtime opens.
        costs: exact costs of the architecture (`macs`, ...), for simulated devices.
        input_shapes: of one example, without batch; by input name.
    """

    format: str
    precision: str
    files: Mapping[str, bytes]
    entry: str
    costs: Mapping[str, float] = field(default_factory=dict)
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @cached_property
    def sha256(self) -> str:
        """Digest of format, precision and all files; computed once, which takes about a ms per MB."""
        digest = hashlib.sha256(f"{self.format}/{self.precision}".encode())
        for name in sorted(self.files):
            digest.update(name.encode() + b"\0" + hashlib.sha256(self.files[name]).digest())
        return digest.hexdigest()

    @property
    def content(self) -> bytes:
        """The entry file's bytes."""
        return self.files[self.entry]


@dataclass(frozen=True)
class History:
    """All trials of a run, in proposal order, as engines see them. Arrays are not to be written to.

    Args:
        genotypes: (n, g) uint8, canonical rows; a row occurs once (repeats of an architecture are not new rows).
        losses: (n, m) one column per objective, smaller is better, NaN = not arrived.
        violations: (n, c) one column per limit, by how much it is passed: at most 0 = kept (minus the margin, see
            `Objective.violation`), NaN = not arrived.
        state: (n,) int8 of `State`.
        stds: (n, m) standard errors of the losses, NaN = unknown.
    """

    genotypes: NDArray[np.uint8]
    losses: NDArray[np.float64]
    violations: NDArray[np.float64]
    state: NDArray[np.int8]
    stds: NDArray[np.float64]

    @classmethod
    def empty(cls, n_genes: int, n_objectives: int, n_limits: int = 0) -> History:
        """Returns a history without trials."""
        return cls.of(np.zeros((0, n_genes), np.uint8), np.zeros((0, n_objectives)), np.zeros((0, n_limits)))

    @classmethod
    def of(
        cls,
        genotypes: NDArray[np.uint8],
        losses: NDArray[np.float64],
        violations: NDArray[np.float64] | None = None,
        state: NDArray[np.int8] | None = None,
        stds: NDArray[np.float64] | None = None,
    ) -> History:
        """Returns a history; by default every trial is finished, without limits and without known spread."""
        n = len(genotypes)
        losses = np.asarray(losses, dtype=np.float64).reshape(n, -1) if n else np.asarray(losses, dtype=np.float64)
        return cls(
            genotypes=np.ascontiguousarray(genotypes, dtype=np.uint8),
            losses=losses,
            violations=np.zeros((n, 0)) if violations is None else np.asarray(violations, dtype=np.float64),
            state=np.full(n, State.FINISHED, np.int8) if state is None else np.asarray(state, dtype=np.int8),
            stds=np.full(losses.shape, np.nan) if stds is None else np.asarray(stds, dtype=np.float64),
        )

    def __post_init__(self) -> None:
        n = len(self.genotypes)
        for name in ("losses", "violations", "state", "stds"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"history.{name} must have {n} rows, but got {len(getattr(self, name))}.")

    def __len__(self) -> int:
        return len(self.genotypes)

    @property
    def finished(self) -> NDArray[np.bool_]:
        """(n,) which trials are finished with every loss known."""
        done: NDArray[np.bool_] = (self.state == State.FINISHED) & ~np.isnan(self.losses).any(axis=1)
        return done

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """(n,) which trials are finished and keep every limit."""
        kept: NDArray[np.bool_] = np.asarray((np.nan_to_num(self.violations, nan=np.inf) <= 0).all(axis=1))
        return self.finished & kept

    def only(self, rows: NDArray[np.bool_] | NDArray[np.intp] | Sequence[int]) -> History:
        """Returns the history of some trials, in order."""
        return replace(
            self,
            genotypes=self.genotypes[rows],
            losses=self.losses[rows],
            violations=self.violations[rows],
            state=self.state[rows],
            stds=self.stds[rows],
        )


@dataclass(frozen=True)
class Outlook:
    """What an engine expects of the next proposals.

    Args:
        gain: expected growth of the front's hypervolume by them, as a share of what it is now; NaN while there is
            nothing to tell it from.
        trust: how well the worst surrogate explains labels it has not seen: 1 perfect, 0 or less useless; NaN likewise.
        feasible: the largest probability, of all that were considered, to keep every limit; NaN likewise.
    """

    gain: float
    trust: float
    feasible: float


@dataclass(frozen=True)
class RunCounts:
    """Where a run stands, in numbers: trials over (failed ones included), failed, in flight; time of the engine."""

    n_done: int = 0
    n_failed: int = 0
    n_running: int = 0
    engine_seconds: float = 0.0


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands.

    Args:
        n_trials: budget.
        n_done: finished and failed trials.
        n_failed: of these.
        n_running: proposed and not arrived.
        n_front: non-dominated feasible trials.
        elapsed_s: since this driver started searching.
        eta_s: estimate of what remains; None at first.
        latest_error: of the trial that failed last since this driver started, if one did.
        outlook: what the engine expected of its latest proposals; None if it does not say.
        n_busy: accuracy workers that have a job.
        hypervolume: share of the box of all known values that the front dominates; None while it is empty.
        latest: what came to the front last: its key, then its values by objective; None while it is empty.
    """

    n_trials: int
    n_done: int
    n_failed: int
    n_running: int
    n_front: int
    elapsed_s: float
    eta_s: float | None
    latest_error: str | None = None
    outlook: Outlook | None = None
    n_busy: int = 0
    hypervolume: float | None = None
    latest: tuple[str, Mapping[str, float]] | None = None

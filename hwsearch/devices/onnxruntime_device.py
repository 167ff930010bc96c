"""ONNX Runtime: the CPU, or a GPU where it has one; fixed threads, no spinning between calls."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hwsearch.devices.base import DeviceSpec, Fingerprint
from hwsearch.devices.environment import clock_of, fingerprint
from hwsearch.devices.reference import REFERENCE_VERSION, FixedNet
from hwsearch.devices.timed import TimedDevice
from hwsearch.devices.timing import Call, ClockName
from hwsearch.errors import DeviceError, UserError
from hwsearch.results import Artifact, Measurement

DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
MEMORY_SCRIPT = Path(__file__).with_name("onnx_memory.py")
MEMORY_SECONDS = 120.0


class OnnxRuntimeDevice(TimedDevice):
    """Measures ONNX files. `spec.threads` threads within an operator, one operator at a time.

    | option | |
    |---|---|
    | provider | `cpu` (default), `cuda` or `tensorrt`, where this onnxruntime has it; copying in and out is timed too |
    | peak_memory | true: also `peak_memory_bytes`, from a process of its own (about a second per artifact; Linux) |
    """

    formats = ("onnx",)

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__(spec)
        spec.check_options(("provider", "peak_memory"))
        provider, memory = spec.options.get("provider", "cpu"), spec.options.get("peak_memory", False)
        if provider not in PROVIDERS:
            known = ", ".join(PROVIDERS)
            raise UserError(f"device {spec.name}: option provider must be one of {known}, but got {provider!r}.")
        if not isinstance(memory, bool):
            raise UserError(f"device {spec.name}: option peak_memory must be true or false, but got {memory!r}.")
        self.provider = PROVIDERS[str(provider)]
        if self.provider not in ort.get_available_providers():
            raise DeviceError(
                f"device {spec.name}: this onnxruntime has no {self.provider}: pip install onnxruntime-gpu instead."
            )
        if self.provider != PROVIDERS["cpu"] and (spec.clock == "cpu" or memory):
            raise UserError(f"device {spec.name}: clock 'cpu' and peak_memory need provider: cpu.")
        self._memory = memory

    @classmethod
    def measures(cls, spec: DeviceSpec) -> tuple[str, ...]:
        """Returns latency, and memory if the spec asks for it."""
        return (*cls.metrics, "peak_memory_bytes") if spec.options.get("peak_memory") is True else cls.metrics

    @classmethod
    def skips_zeros(cls, spec: DeviceSpec, pattern: str) -> bool | None:
        """Returns False: all its kernels are dense. What TensorRT does with 2:4 is not known here."""
        return None if spec.options.get("provider") == "tensorrt" and pattern == "2:4" else False

    def measure(self, artifacts: Sequence[Artifact]) -> list[Mapping[str, Measurement]]:
        """Returns latency per artifact, and memory if the spec asks for it; see `Device.measure`."""
        results = super().measure(artifacts)
        if not self._memory:
            return results
        return [
            {**result, "peak_memory_bytes": self._peak_memory(artifact)}
            for artifact, result in zip(artifacts, results, strict=True)
        ]

    def _peak_memory(self, artifact: Artifact) -> Measurement:
        session = open_session(artifact.content, threads=1, what=f"artifact {artifact.sha256[:12]}")
        feeds = random_feeds(session, artifact, batch=self.spec.batch)
        shapes = [f"{name}={'x'.join(map(str, values.shape))}" for name, values in feeds.items()]
        where = f"device {self.spec.name}: peak memory of artifact {artifact.sha256[:12]}"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            file.write_bytes(artifact.content)
            command = [sys.executable, str(MEMORY_SCRIPT), str(file), str(self.spec.threads), *shapes]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=MEMORY_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise DeviceError(f"{where} must be known within {MEMORY_SECONDS:g} s, but is not.") from error
        if done.returncode != 0 or not done.stdout.strip().isdigit():
            raise DeviceError(f"{where} cannot be measured: {' '.join(done.stderr.split())[-300:]}")
        return Measurement(float(done.stdout), float("nan"), "bytes", environment=self.fingerprint())

    def open(self, artifact: Artifact) -> Call:
        """Returns a call of a new session on random inputs; see `TimedDevice.open`."""
        session = self._session(artifact.content, f"artifact {artifact.sha256[:12]}")
        feeds = random_feeds(session, artifact, batch=self.spec.batch)
        return _checked_call(session, feeds)

    def open_fixed(self, net: FixedNet) -> Call:
        """Returns a call of a fixed net."""
        session = self._session(net.onnx(), f"the {net.name} net")
        return _checked_call(session, {"x": net.input()})

    def _session(self, content: bytes, what: str) -> ort.InferenceSession:
        return open_session(content, threads=self.spec.threads, what=what, provider=self.provider)

    def fingerprint(self) -> Fingerprint:
        """Returns the machine, ONNX Runtime's version, threads, batch."""
        return fingerprint(
            self.spec,
            runtime_version=ort.__version__,
            extra={
                "provider": self.provider,
                "clock": self.clock,
                "reference_net": f"{self.spec.reference} {REFERENCE_VERSION}",
            },
        )

    @property
    def clock(self) -> ClockName:
        """Wall time on a GPU."""
        return clock_of(self.spec, on_cpu=self.provider == PROVIDERS["cpu"])


def open_session(
    content: bytes, *, threads: int, what: str = "the ONNX model", provider: str = PROVIDERS["cpu"]
) -> ort.InferenceSession:
    """Returns a session with fixed settings.

    Raises:
        DeviceError: ONNX Runtime does not take the bytes.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    # Spinning threads would take the cores from whatever is timed next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(content, options, providers=[provider])
    except Exception as error:  # onnxruntime's exceptions share no narrower base class
        raise DeviceError(f"onnxruntime cannot open {what}: {one_line(error)}") from error


def random_feeds(
    session: ort.InferenceSession, artifact: Artifact, *, batch: int, seed: int = 0
) -> dict[str, NDArray[Any]]:
    """Returns input name -> random array: normal for floats, zeros for whole numbers (any index is valid then).

    Raises:
        UserError: a shape is not known, or the file's batch is fixed to another number.
    """
    rng = np.random.default_rng(seed)
    feeds = {}
    for node in session.get_inputs():
        shape = input_shape(node.name, node.shape, artifact.input_shapes.get(node.name), batch=batch)
        dtype = DTYPES.get(node.type)
        if dtype is None:
            raise UserError(f"input {node.name!r} must be of type {', '.join(DTYPES)}, but got {node.type}.")
        values = rng.standard_normal(shape) if dtype is np.float32 else np.zeros(shape)
        feeds[node.name] = values.astype(dtype)
    return feeds


def input_shape(
    name: str, declared: Sequence[int | str | None], example: tuple[int, ...] | None, *, batch: int
) -> tuple[int, ...]:
    """Returns the shape to feed: `batch`, then the example's sizes where the file leaves them open.

    Args:
        name: of the input.
        declared: the file's shape; a string or None is an open size.
        example: of one example, without batch; None if not known.
        batch: examples per call.
    """
    if declared and isinstance(declared[0], int) and declared[0] != batch:
        raise UserError(f"batch of input {name!r} is fixed to {declared[0]} in the file, but got batch {batch}.")
    shape = [batch]
    for i, size in enumerate(declared[1:]):
        if isinstance(size, int):
            shape.append(size)
        elif example is not None and i < len(example):
            shape.append(example[i])
        else:
            raise UserError(f"size {i + 1} of input {name!r} must be known, but the file leaves it open ({size}).")
    return tuple(shape) if declared else ()


def one_line(error: Exception) -> str:
    """Returns an exception's message without line breaks, at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _checked_call(session: ort.InferenceSession, feeds: dict[str, NDArray[Any]]) -> Call:
    def call() -> object:
        return session.run(None, feeds)

    try:
        call()
    except Exception as error:  # as above
        raise DeviceError(f"onnxruntime cannot run the model: {one_line(error)}") from error
    return call

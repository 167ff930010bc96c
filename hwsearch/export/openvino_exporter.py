"""OpenVINO IR: from the ONNX file of the same module; int8 by NNCF; precision always explicit."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from hwsearch.errors import DeviceError, UserError, missing_extra
from hwsearch.export.base import Exporter, check_calibration
from hwsearch.export.onnx_exporter import input_names, write
from hwsearch.results import Artifact

ENTRY, WEIGHTS = "model.xml", "model.bin"
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""Precision of the artifact -> what the runtime is told. Told nothing, it computes in bf16 wherever the CPU can."""


class OpenVinoExporter(Exporter):
    """Exports IR files with dynamic batch. fp32 and bf16 share their bytes: bf16 is how the runtime computes.

    int8 is NNCF's post-training quantisation of weights and activations, calibrated on `calibration`.
    """

    format = "openvino"
    precisions = ("fp32", "bf16", "int8")

    def __init__(self) -> None:
        self._opened: tuple[Artifact, Any] | None = None

    def export(
        self,
        module: nn.Module,
        example: tuple[Tensor, ...],
        *,
        precision: str = "fp32",
        costs: Mapping[str, float],
        calibration: Sequence[tuple[Tensor, ...]] = (),
    ) -> Artifact:
        """Returns the IR; see `Exporter.export`."""
        self.check_precision(precision)
        if precision == "int8":
            check_calibration(calibration, example, precision)
        ov = openvino()
        names = input_names(example)
        model = ov.Core().read_model(write(module, example, names))
        if precision == "int8":
            model = quantise(model, calibration)
        return Artifact(
            format=self.format,
            precision=precision,
            files=serialise(model),
            entry=ENTRY,
            costs=dict(costs),
            input_shapes={name: tuple(tensor.shape[1:]) for name, tensor in zip(names, example, strict=True)},
        )

    def run(self, artifact: Artifact, inputs: tuple[NDArray[np.generic], ...]) -> NDArray[np.float32]:
        """Returns OpenVINO's output on one thread; see `Exporter.run`."""
        if self._opened is None or self._opened[0] is not artifact:
            self._opened = (artifact, compiled(artifact))
        model = self._opened[1]
        if len(model.inputs) != len(inputs):
            raise UserError(f"inputs must be {len(model.inputs)} arrays, but got {len(inputs)}.")
        try:
            out = model(list(inputs))[0]
        except Exception as error:  # OpenVINO's exceptions share no narrower base class
            raise DeviceError(f"openvino cannot run the model: {' '.join(str(error).split())[:300]}") from error
        return np.array(out, dtype=np.float32)


def openvino() -> Any:
    """Returns the package `openvino`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise missing_extra("openvino", "openvino", "OpenVINO") from error
    return openvino


def serialise(model: Any) -> dict[str, bytes]:
    """Returns the two files of a model, weights uncompressed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ENTRY
        openvino().save_model(model, path, compress_to_fp16=False)
        return {name: (Path(folder) / name).read_bytes() for name in (ENTRY, WEIGHTS)}


def compiled(artifact: Artifact) -> Any:
    """Returns the IR compiled for the CPU: one thread, its own precision.

    Raises:
        DeviceError: the runtime does not take it, or the CPU has no such precision.
    """
    ov = openvino()
    core = ov.Core()
    hint = HINTS[artifact.precision]
    if hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise DeviceError("openvino computes bf16 only on a CPU with bf16 instructions, but this one has none.")
    try:
        model = core.read_model(artifact.content, artifact.files[WEIGHTS])
        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
        return core.compile_model(model, "CPU", settings)
    except Exception as error:  # as above
        raise DeviceError(f"openvino cannot open the model: {' '.join(str(error).split())[:300]}") from error


def quantise(model: Any, calibration: Sequence[tuple[Tensor, ...]]) -> Any:
    """Returns the model with int8 weights and activations (NNCF, mixed preset: activations signed where need be).

    Raises:
        UserError: NNCF cannot quantise it.
    """
    with _without_telemetry():
        try:
            import nncf
        except ImportError as error:
            raise missing_extra("nncf", "openvino", "int8 for OpenVINO") from error
    examples = [
        tuple(tensor[i : i + 1].numpy() for tensor in batch) for batch in calibration for i in range(len(batch[0]))
    ]
    data = nncf.Dataset([example[0] if len(example) == 1 else list(example) for example in examples])
    nncf.set_log_level(50)
    try:
        with redirect_stdout(io.StringIO()):  # its progress bars
            return nncf.quantize(
                model,
                data,
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(examples),
                target_device=nncf.TargetDevice.CPU,
            )
    except Exception as error:  # NNCF raises its own and OpenVINO's
        raise UserError(f"nncf cannot quantise the model: {' '.join(str(error).split())[:300]}") from error


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Nothing is sent anywhere without being asked: NNCF reads this once, while it is imported."""
    with mock.patch.dict(os.environ, {"NNCF_CI": "1"}):
        yield

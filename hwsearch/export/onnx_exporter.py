"""ONNX, opset 17, dynamic batch, BatchNorm folded: written layer by layer, or traced by torch; run by ONNX Runtime."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwsearch.errors import DeviceError, UserError
from hwsearch.export import onnx_int8
from hwsearch.export.base import Exporter, check_calibration, eval_mode
from hwsearch.graphs.layer_trace import Unsupported
from hwsearch.graphs.onnx_graph import build_onnx
from hwsearch.results import Artifact

OPSET = 17
ENTRY = "model.onnx"


class OnnxExporter(Exporter):
    """Exports ONNX files: inputs `input` (or `input0`, `input1`, ...), output `output`, the first axis `batch`.

    The same module gives the same bytes. `int8` is static QDQ, calibrated on `calibration`; `int8-dynamic` quantises
    the weights of linear layers. `run` uses one thread.
    """

    format = "onnx"
    precisions = ("fp32", "int8", "int8-dynamic")

    def __init__(self) -> None:
        self._opened: tuple[Artifact, ort.InferenceSession] | None = None

    def export(
        self,
        module: nn.Module,
        example: tuple[Tensor, ...],
        *,
        precision: str = "fp32",
        costs: Mapping[str, float],
        calibration: Sequence[tuple[Tensor, ...]] = (),
    ) -> Artifact:
        """Returns the ONNX artifact; see `Exporter.export`."""
        self.check_precision(precision)
        if precision == "int8":
            check_calibration(calibration, example, precision)
        names = input_names(example)
        content = write(module, example, names)
        if precision == "int8":
            content = onnx_int8.static(content, names, calibration)
        elif precision == "int8-dynamic":
            content = onnx_int8.dynamic(content)
        return Artifact(
            format=self.format,
            precision=precision,
            files={ENTRY: content},
            entry=ENTRY,
            costs=dict(costs),
            input_shapes={name: tuple(tensor.shape[1:]) for name, tensor in zip(names, example, strict=True)},
        )

    def run(self, artifact: Artifact, inputs: tuple[NDArray[np.generic], ...]) -> NDArray[np.float32]:
        """Returns ONNX Runtime's output; see `Exporter.run`."""
        if self._opened is None or self._opened[0] is not artifact:
            self._opened = (artifact, cpu_session(artifact.content))
        session = self._opened[1]
        names = [node.name for node in session.get_inputs()]
        if len(names) != len(inputs):
            raise UserError(f"inputs must be {len(names)} arrays, but got {len(inputs)}.")
        try:
            out = session.run(None, dict(zip(names, inputs, strict=True)))[0]
        except Exception as error:  # onnxruntime's exceptions share no narrower base class
            raise DeviceError(f"onnxruntime cannot run the model: {' '.join(str(error).split())[:300]}") from error
        return np.asarray(out, dtype=np.float32)


def input_names(example: tuple[Tensor, ...]) -> list[str]:
    """Returns the names of a graph's inputs."""
    return ["input"] if len(example) == 1 else [f"input{i}" for i in range(len(example))]


def cpu_session(content: bytes | str) -> ort.InferenceSession:
    """Returns a quiet CPU session of one thread, of a file's bytes or its path.

    Raises:
        DeviceError: ONNX Runtime does not take the bytes.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise DeviceError(f"onnxruntime cannot open the model: {' '.join(str(error).split())[:300]}") from error


def write(module: nn.Module, example: tuple[Tensor, ...], names: Sequence[str]) -> bytes:
    """Returns the ONNX file of a module: written directly where every layer is known, else traced by torch.

    Raises:
        UserError: an operator has no ONNX counterpart; names it.
    """
    try:
        with eval_mode(module):
            return build_onnx(module, example, names, opset=OPSET)
    except Unsupported:
        return trace(module, example, names)


def trace(module: nn.Module, example: tuple[Tensor, ...], names: Sequence[str]) -> bytes:
    """Returns the ONNX file that torch's tracing exporter makes of a module, in eval mode, without its messages.

    The tracing exporter and not the newer one, which takes 3 to 10 s for a CNN instead of 0.3 to 0.9 s.

    Raises:
        UserError: an operator has no ONNX counterpart; names it.
    """
    buffer = io.BytesIO()
    try:
        with eval_mode(module), torch.no_grad(), _quiet():
            torch.onnx.export(
                module,
                example,
                buffer,  # type: ignore[arg-type]  # the tracing exporter writes to buffers
                dynamo=False,
                opset_version=OPSET,
                input_names=list(names),
                output_names=["output"],
                dynamic_axes={name: {0: "batch"} for name in (*names, "output")},
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        text = str(error)
        found = re.search(r"operator '([^']+)'|(aten::\w+)", text)
        operator = found[1] or found[2] if found else ""
        what = f"operator {operator}{_place(module, example, operator)} has no ONNX counterpart"
        what = what if found else " ".join(text.split())[:300]
        raise UserError(f"module {type(module).__name__} cannot be exported to ONNX opset {OPSET}: {what}.") from error
    return buffer.getvalue()


def _place(module: nn.Module, example: tuple[Tensor, ...], operator: str) -> str:
    """Returns ` in layer PATH` where the module's trace shows the operator in a layer, else nothing."""
    try:
        with eval_mode(module), torch.no_grad(), _quiet():
            traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
        scopes = [node.scopeName() for node in traced.inlined_graph.nodes() if node.kind() == operator]
    except RuntimeError:  # what cannot be traced has no places
        return ""
    path = scopes[0].rpartition("__module.")[2] if scopes else ""
    return f" in layer {path}" if path else ""


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

"""int8 for ONNX: static QDQ calibrated on real inputs, or dynamic (weights only, activations at run time)."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from torch import Tensor

from hwsearch.errors import UserError


def static(content: bytes, names: Sequence[str], calibration: Sequence[tuple[Tensor, ...]]) -> bytes:
    """Returns the ONNX file with int8 weights (per channel) and uint8 activations, as QuantizeLinear pairs (QDQ).

    Ranges are the least and largest values seen. Weights keep 7 bits: CPUs without VNNI add two products of 8 bits
    in 16, which may saturate, and the file must give the same outputs on all of them.

    Args:
        content: fp32 file.
        names: of its inputs.
        calibration: batches of real inputs, checked by `check_calibration`.

    Raises:
        UserError: the file cannot be quantised.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(calibration)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {n: t.numpy() for n, t in zip(names, batch, strict=True)}

    def quantise(folder: Path) -> None:
        quant_pre_process(onnx.load(io.BytesIO(content)), folder / "prepared.onnx", skip_symbolic_shape=True)
        quantize_static(
            folder / "prepared.onnx",
            folder / "out.onnx",
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )

    return _quantised(quantise)


def dynamic(content: bytes) -> bytes:
    """Returns the ONNX file with int8 weights in matrix products; activations are quantised at run time.

    For transformers: convolutions have no fast dynamic kernel and stay fp32.

    Raises:
        UserError: the file cannot be quantised, or has no matrix product with constant weights.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def quantise(folder: Path) -> None:
        quantize_dynamic(
            onnx.load(io.BytesIO(content)),
            folder / "out.onnx",
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )

    made = _quantised(quantise)
    if not any("Integer" in node.op_type for node in onnx.load(io.BytesIO(made)).graph.node):
        raise UserError("the model must have a linear layer for dynamic int8, but it has none.")
    return made


def precision_of(content: bytes) -> str | None:
    """Returns the precision of an ONNX file: `int8` where tensors are quantised; None if it is no ONNX file."""
    try:
        operators = {node.op_type for node in onnx.load_from_string(content).graph.node}
    except Exception:  # protocol buffers' error is of a library without types, and not onnx's
        return None
    if not operators:
        return None
    if "DynamicQuantizeLinear" in operators:
        return "int8-dynamic"
    return "int8" if "QuantizeLinear" in operators else "fp32"


def _quantised(quantise: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder, _quiet():
        try:
            quantise(Path(folder))
        except Exception as error:  # the quantiser raises whatever it stumbles on
            text = " ".join(str(error).split())[:300]
            raise UserError(f"onnxruntime cannot quantise the model: {text or type(error).__name__}") from error
        model = onnx.load(Path(folder) / "out.onnx")
    content: bytes = model.SerializeToString(deterministic=True)
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser advises through the root logger."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

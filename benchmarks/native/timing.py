"""Interleaved timing for the native benchmarks: process CPU time, one thread, medians of ratios within a round."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
import openvino as ov
import torch
from torch import Tensor, nn

from hwsearch.devices.environment import cpu_model
from hwsearch.export.onnx_exporter import OnnxExporter
from hwsearch.export.openvino_exporter import OpenVinoExporter

Call = Callable[[], object]
Loop = Callable[[int], object]


def repeated(call: Call) -> Loop:
    """A function that makes so many calls."""

    def loop(times: int) -> None:
        for _ in range(times):
            call()

    return loop


def interleaved(loops: Mapping[str, Loop], *, rounds: int, least_ms: float = 1.0) -> dict[str, np.ndarray]:
    """Milliseconds per call, (rounds,) for each; one round runs each of them once (short ones several times)."""
    repeats = {}
    for name, loop in loops.items():
        loop(1)
        begin = time.process_time()
        loop(1)
        repeats[name] = max(1, round(least_ms / 1e3 / max(time.process_time() - begin, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            loop(1)  # what the others left in the caches is not this one's
            begin = time.process_time()
            loop(repeats[name])
            times[name].append((time.process_time() - begin) * 1e3 / repeats[name])
    return {name: np.array(values) for name, values in times.items()}


def onnxruntime_call(module: nn.Module, example: Tensor) -> Call:
    """One thread, all graph optimisations (its default), inputs and outputs bound once."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    content = OnnxExporter().export(module, (example,), costs={}).content
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    value = ort.OrtValue.ortvalue_from_numpy(example.numpy())
    binding.bind_ortvalue_input(session.get_inputs()[0].name, value)
    binding.bind_output(session.get_outputs()[0].name)
    return lambda: (session.run_with_iobinding(binding), value)


def onnxruntime_int8_call(module: nn.Module, example: Tensor) -> Call:
    """Static int8 with operators on quantised tensors, calibrated on random inputs: only its time matters here."""
    batches = [(torch.randn_like(example),) for _ in range(2)]
    artifact = OnnxExporter().export(module, (example,), precision="int8", costs={}, calibration=batches)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(artifact.content, options, providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: example.numpy()}
    return lambda: session.run(None, feeds)


def openvino_call(module: nn.Module, example: Tensor, *, precision: str = "fp32") -> Call:
    """One thread, one stream, f32 or int8 (NNCF, calibrated on random inputs: only its time matters), shapes fixed."""
    batches = [(torch.randn_like(example),) for _ in range(2)] if precision == "int8" else []
    artifact = OpenVinoExporter().export(module, (example,), precision=precision, costs={}, calibration=batches)
    core = ov.Core()
    model = core.read_model(artifact.content, artifact.files["model.bin"])
    model.reshape({model.inputs[0]: list(example.shape)})
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = core.compile_model(model, "CPU", {**settings, "ENABLE_CPU_PINNING": False}).create_infer_request()
    request.get_input_tensor(0).data[:] = example.numpy()
    return lambda: request.infer()


def machine() -> str:
    """What the numbers were measured on."""
    return (
        f"{cpu_model()}, {os.cpu_count()} cores; onnxruntime {ort.__version__}, openvino {ov.__version__.split('-')[0]}"
    )

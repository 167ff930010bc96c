"""OpenVINO on the CPU: the precision of the artifact, never what the runtime would choose."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwsearch.devices.base import DeviceSpec, Fingerprint
from hwsearch.devices.environment import fingerprint
from hwsearch.devices.reference import REFERENCE_VERSION, FixedNet
from hwsearch.devices.timed import TimedDevice
from hwsearch.devices.timing import Call
from hwsearch.errors import DeviceError, UserError, missing_extra
from hwsearch.results import Artifact

HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""Told nothing, OpenVINO computes in bf16 wherever the CPU can."""


class OpenVinoDevice(TimedDevice):
    """Measures OpenVINO IR, and ONNX files as OpenVINO reads them, with the batch fixed to the spec's.

    Args:
        spec: no options.
    """

    formats = ("openvino", "onnx")

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__(spec)
        spec.check_options(())
        unknown = [precision for precision in spec.precisions if precision not in HINTS]
        if unknown:
            raise UserError(f"device {spec.name}: precisions must be of {', '.join(HINTS)}, but got {unknown[0]!r}.")
        try:
            import openvino
        except ImportError as error:
            raise missing_extra("openvino", "openvino", f"device {spec.name}") from error
        self._version = openvino.__version__
        self._core = openvino.Core()
        if "bf16" in spec.precisions and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise DeviceError(f"device {spec.name} admits bf16, but this CPU has no bf16 instructions.")

    @classmethod
    def skips_zeros(cls, spec: DeviceSpec, pattern: str) -> bool | None:
        """Returns False: it decompresses sparse weights only where that is asked for, and here it is not."""
        return False

    def open(self, artifact: Artifact) -> Call:
        """Returns a call of the compiled model on random inputs; see `TimedDevice.open`."""
        what = f"artifact {artifact.sha256[:12]}"
        try:
            weights = [content for name, content in artifact.files.items() if name.endswith(".bin")]
            model = self._core.read_model(artifact.content, *weights)
            shapes = {}
            for port in model.inputs:
                sizes = [int(size.get_length()) if size.is_static else None for size in port.partial_shape]
                example = artifact.input_shapes.get(port.any_name, ())
                shapes[port] = [
                    self.spec.batch,
                    *(s or e for s, e in zip(sizes[1:], example or sizes[1:], strict=True)),
                ]
            model.reshape(shapes)
            rng = np.random.default_rng(0)
            feeds = []
            for port in model.inputs:
                dtype = port.element_type.to_dtype()
                values = rng.standard_normal(tuple(port.shape)) if dtype.kind == "f" else np.zeros(tuple(port.shape))
                feeds.append(values.astype(dtype))
            return self._call(model, feeds, HINTS[artifact.precision])
        except Exception as error:  # OpenVINO's exceptions share no narrower base class
            raise DeviceError(f"openvino cannot open {what}: {' '.join(str(error).split())[:300]}") from error

    def open_fixed(self, net: FixedNet) -> Call:
        """Returns a call of a fixed net in f32."""
        model, example = self._core.read_model(net.onnx()), net.input()
        model.reshape({model.input(0): list(example.shape)})
        return self._call(model, [example], "f32")

    def _call(self, model: Any, feeds: list[Any], hint: str) -> Call:
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": self.spec.threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        request = self._core.compile_model(model, "CPU", settings).create_infer_request()
        for i, values in enumerate(feeds):
            held = request.get_input_tensor(i).data
            assert held.shape == values.shape  # an open batch would hold no example, and be computed at once
            held[:] = values

        def call() -> object:
            request.infer()
            return request

        call()
        return call

    def fingerprint(self) -> Fingerprint:
        """Returns the machine, OpenVINO's version, threads, batch."""
        extra: Fingerprint = {"provider": "CPU", "reference_net": f"{self.spec.reference} {REFERENCE_VERSION}"}
        return fingerprint(self.spec, runtime_version=self._version, extra=extra)

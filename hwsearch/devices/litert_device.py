"""LiteRT on the CPU, with XNNPACK."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsearch.devices.base import DeviceSpec, Fingerprint
from hwsearch.devices.environment import fingerprint
from hwsearch.devices.reference import REFERENCE_VERSION, FixedNet
from hwsearch.devices.timed import TimedDevice
from hwsearch.devices.timing import Call
from hwsearch.errors import DeviceError, missing_extra
from hwsearch.results import Artifact


class LiteRtDevice(TimedDevice):
    """Measures LiteRT (tflite) files.

    Args:
        spec: no options.
    """

    formats = ("litert",)

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__(spec)
        spec.check_options(())
        try:
            from importlib.metadata import version

            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise missing_extra("ai-edge-litert", "litert", f"device {spec.name}") from error
        self._interpreter, self._version = Interpreter, version("ai-edge-litert")

    def open(self, artifact: Artifact) -> Call:
        """Returns a call of a new interpreter on random inputs; see `TimedDevice.open`."""
        return self._call(artifact.content, f"artifact {artifact.sha256[:12]}", self.spec.batch)

    def open_fixed(self, net: FixedNet) -> Call:
        """Returns a call of a fixed net."""
        return self._call(net.litert(), f"the {net.name} net", 1)

    def _call(self, content: bytes, what: str, batch: int) -> Call:
        rng = np.random.default_rng(0)
        try:
            engine = self._interpreter(model_content=content, num_threads=self.spec.threads)
            for place in engine.get_input_details():
                engine.resize_tensor_input(place["index"], [batch, *place["shape"][1:]], strict=True)
            engine.allocate_tensors()
            for place in engine.get_input_details():
                engine.set_tensor(place["index"], _random(place, rng))
            engine.invoke()
        except (ValueError, RuntimeError) as error:
            raise DeviceError(f"litert cannot open {what}: {' '.join(str(error).split())[:300]}") from error

        def call() -> object:
            engine.invoke()
            return engine

        return call

    def fingerprint(self) -> Fingerprint:
        """Returns the machine, LiteRT's version, threads, batch."""
        extra: Fingerprint = {"provider": "XNNPACK", "reference_net": f"{self.spec.reference} {REFERENCE_VERSION}"}
        return fingerprint(self.spec, runtime_version=self._version, extra=extra)


def _random(place: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
    shape, kind = tuple(place["shape"]), place["dtype"]
    return (rng.standard_normal(shape) if np.issubdtype(kind, np.floating) else np.zeros(shape)).astype(kind)

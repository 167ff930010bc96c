"""NativeDevice: times native libraries in this process, one thread; the reference nets are native too."""

from __future__ import annotations

import numpy as np
import torch

from hwsearch.devices.base import DeviceSpec, Fingerprint
from hwsearch.devices.environment import fingerprint
from hwsearch.devices.reference import REFERENCE_VERSION, FixedModule, FixedNet
from hwsearch.devices.timed import TimedDevice
from hwsearch.devices.timing import Call
from hwsearch.errors import DeviceError, UserError
from hwsearch.native.compiler import compiler
from hwsearch.native.exporter import NativeExporter, open_artifact
from hwsearch.results import Artifact


class NativeDevice(TimedDevice):
    """Measures native libraries. They compute on one thread: run several side by side to use more.

    Args:
        spec: `threads: 1`, precision `fp32`; no options.
    """

    formats = ("native",)

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__(spec)
        spec.check_options(())
        if spec.threads != 1:
            raise UserError(f"device {spec.name}: threads must be 1 for native code, but got {spec.threads}.")
        if tuple(spec.precisions) != ("fp32",):
            raise UserError(f"device {spec.name}: precisions must be fp32, but got {', '.join(spec.precisions)}.")

    def open(self, artifact: Artifact) -> Call:
        """Returns a call of the library on random inputs; see `TimedDevice.open`."""
        library = open_artifact(artifact, what=f"artifact {artifact.sha256[:12]}")
        rng = np.random.default_rng(0)
        feeds = []
        for shape, kind in library.inputs:
            values = (
                rng.standard_normal((self.spec.batch, *shape))
                if kind == "float"
                else np.zeros((self.spec.batch, *shape))
            )
            feeds.append(values)
        call = library.bound(*feeds)
        call()
        return call

    def open_fixed(self, net: FixedNet) -> Call:
        """Returns a call of a fixed net."""
        example = (torch.from_numpy(net.input()),)
        library = open_artifact(NativeExporter().export(FixedModule(net).eval(), example, costs={}))
        call = library.bound(net.input())
        call()
        return call

    def fingerprint(self) -> Fingerprint:
        """Returns the machine, the compiler, the instruction set, batch."""
        target = NativeExporter().target.name
        extra: Fingerprint = {"provider": target, "reference_net": f"{self.spec.reference} {REFERENCE_VERSION}"}
        try:
            version = compiler()[1]
        except DeviceError:
            version = "none"
        return fingerprint(self.spec, runtime_version=version, extra=extra)

"""torch itself, eager: the CPU, or a GPU where there is one. Opens torch.export programs (.pt2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.export.passes import move_to_device_pass

from hwsearch.devices.base import DeviceSpec, Fingerprint
from hwsearch.devices.environment import fingerprint
from hwsearch.devices.reference import REFERENCE_VERSION, FixedModule, FixedNet
from hwsearch.devices.timed import TimedDevice
from hwsearch.devices.timing import Call
from hwsearch.errors import DeviceError, UserError
from hwsearch.results import Artifact
from hwsearch.torch_program import read_program


class TorchDevice(TimedDevice):
    """Measures torch.export programs, operator by operator.

    Args:
        spec: option `device` is `cpu` (default) or `cuda`; on a GPU every timed call ends with a synchronisation.
    """

    formats = ("torch",)

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__(spec)
        spec.check_options(("device",))
        self.device = str(spec.options.get("device", "cpu"))
        if self.device not in ("cpu", "cuda"):
            raise UserError(f"device {spec.name}: option device must be 'cpu' or 'cuda', but got {self.device!r}.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise DeviceError(f"device {spec.name} must have a GPU that torch can use, but torch finds none.")
        if self.device == "cuda" and spec.clock == "cpu":
            raise UserError(f"device {spec.name}: clock must be 'wall' on a GPU, but got 'cpu'.")

    def open(self, artifact: Artifact) -> Call:
        """Returns a call of the loaded program on random inputs; see `TimedDevice.open`."""
        module = load_program(artifact.content, what=f"artifact {artifact.sha256[:12]}", device=self.device)
        generator = torch.Generator().manual_seed(0)
        shapes = artifact.input_shapes.values()
        inputs = tuple(torch.randn(self.spec.batch, *shape, generator=generator).to(self.device) for shape in shapes)
        return self._call(module, inputs)

    def open_fixed(self, net: FixedNet) -> Call:
        """Returns a call of a fixed net."""
        module = FixedModule(net).eval().to(self.device)
        return self._call(module, (torch.from_numpy(net.input()).to(self.device),))

    def _call(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Call:
        cuda = self.device == "cuda"

        def call() -> object:
            with torch.inference_mode():
                out = module(*inputs)
            if cuda:
                torch.cuda.synchronize()
            return out

        try:
            call()
        except RuntimeError as error:
            raise DeviceError(f"torch cannot run the program: {' '.join(str(error).split())[:300]}") from error
        return call

    @contextmanager
    def running(self) -> Iterator[None]:
        """Holds this process's torch at the spec's number of threads."""
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(self.spec.threads)
            yield
        finally:
            torch.set_num_threads(before)

    def fingerprint(self) -> Fingerprint:
        """Returns the machine, torch's version, threads, batch, and the GPU's name."""
        gpu = torch.cuda.get_device_name() if self.device == "cuda" else None
        extra = {"device": self.device, "gpu_model": gpu, "reference_net": f"{self.spec.reference} {REFERENCE_VERSION}"}
        return fingerprint(self.spec, runtime_version=torch.__version__, extra=extra)


def load_program(content: bytes, *, what: str = "the program", device: str = "cpu") -> nn.Module:
    """Returns the module of a torch.export program (.pt2).

    Raises:
        DeviceError: torch does not take the bytes.
    """
    try:
        program = read_program(content)
        if device != "cpu":
            program = move_to_device_pass(program, device)
        return program.module()
    except (ValueError, RuntimeError) as error:
        raise DeviceError(f"torch cannot open {what}: {' '.join(str(error).split())[:300]}") from error

"""torch itself: the CPU, or a GPU where there is one; eager, compiled or as a CUDA graph. Opens .pt2 programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass
from torch.sparse import to_sparse_semi_structured

from hwsearch.devices.base import DeviceSpec, Fingerprint
from hwsearch.devices.environment import clock_of, fingerprint
from hwsearch.devices.reference import REFERENCE_VERSION, FixedModule, FixedNet
from hwsearch.devices.timed import TimedDevice
from hwsearch.devices.timing import Call, ClockName
from hwsearch.errors import DeviceError, UserError
from hwsearch.results import Artifact
from hwsearch.torch_program import read_program

AMPERE = (8, 0)
"""Compute capability of the first GPUs with 2:4 sparse tensor cores."""


class TorchDevice(TimedDevice):
    """Measures torch.export programs.

    | option | |
    |---|---|
    | device | `cpu` (default) or `cuda`; on a GPU every timed call ends with a synchronisation |
    | compile | true: through torch.compile; needs a C++ compiler (CPU) or Triton (GPU) |
    | cuda_graph | true: recorded once, replayed in every call |
    | semi_structured | true: linear weights that keep 2 of 4 run on sparse tensor cores (bf16, Ampere and later) |

    The reference and the control run the same way, but never sparse.
    """

    formats = ("torch",)

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__(spec)
        spec.check_options(("device", "compile", "cuda_graph", "semi_structured"))
        self.device = str(spec.options.get("device", "cpu"))
        if self.device not in ("cpu", "cuda"):
            raise UserError(f"device {spec.name}: option device must be 'cpu' or 'cuda', but got {self.device!r}.")
        self._compile, self._graph, self._sparse = (
            self._switch(key) for key in ("compile", "cuda_graph", "semi_structured")
        )
        if self.device != "cuda" and (self._graph or self._sparse):
            raise UserError(f"device {spec.name}: options cuda_graph and semi_structured need device: cuda.")
        if self.device == "cuda":
            if spec.clock == "cpu":
                raise UserError(f"device {spec.name}: clock must be 'wall' on a GPU, but got 'cpu'.")
            if not torch.cuda.is_available():
                raise DeviceError(f"device {spec.name} must have a GPU that torch can use, but torch finds none.")
            if self._sparse and torch.cuda.get_device_capability() < AMPERE:
                raise DeviceError(f"device {spec.name}: 2:4 needs an NVIDIA GPU of Ampere or later, but this is older.")

    @classmethod
    def skips_zeros(cls, spec: DeviceSpec, pattern: str) -> bool | None:
        """Returns False but for 2:4 with `semi_structured`: whether that pays depends on the layers."""
        return None if spec.options.get("semi_structured") and pattern == "2:4" else False

    def _switch(self, key: str) -> bool:
        value = self.spec.options.get(key, False)
        if not isinstance(value, bool):
            raise UserError(f"device {self.spec.name}: option {key} must be true or false, but got {value!r}.")
        return value

    def open(self, artifact: Artifact) -> Call:
        """Returns a call of the loaded program on random inputs; see `TimedDevice.open`."""
        what = f"artifact {artifact.sha256[:12]}"
        try:
            program = read_program(artifact.content)
            if self.device != "cpu":
                program = move_to_device_pass(program, self.device)
            module = program.module()
        except (ValueError, RuntimeError) as error:
            raise DeviceError(f"torch cannot open {what}: {_one_line(error)}") from error
        if self._sparse:
            make_semi_structured(module)
        generator = torch.Generator().manual_seed(0)
        shapes = artifact.input_shapes.values()
        inputs = tuple(torch.randn(self.spec.batch, *shape, generator=generator).to(self.device) for shape in shapes)
        return self._call(module, inputs)

    def open_fixed(self, net: FixedNet) -> Call:
        """Returns a call of a fixed net."""
        return self._call(FixedModule(net).eval().to(self.device), (torch.from_numpy(net.input()).to(self.device),))

    def _call(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Call:
        run: Callable[..., Tensor] = torch.compile(module) if self._compile else module
        cuda = self.device == "cuda"

        def call() -> object:
            with torch.inference_mode():
                out = run(*inputs)
            if cuda:
                torch.cuda.synchronize()
            return out

        try:
            call()
            return _recorded(run, inputs) if self._graph else call
        except Exception as error:  # torch.compile's errors share no base class with RuntimeError
            raise DeviceError(f"torch cannot run the program: {_one_line(error)}") from error

    @contextmanager
    def running(self) -> Iterator[None]:
        """Holds this process's torch at the spec's number of threads."""
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(self.spec.threads)
            with super().running():
                yield
        finally:
            torch.set_num_threads(before)

    def fingerprint(self) -> Fingerprint:
        """Returns the machine, torch's version, threads, batch, how it runs, and the GPU's name."""
        cuda = self.device == "cuda"
        extra: Fingerprint = {
            "device": self.device,
            "gpu_model": torch.cuda.get_device_name() if cuda else None,
            "cuda_version": str(torch.version.cuda) if cuda else None,
            "compile": self._compile,
            "cuda_graph": self._graph,
            "semi_structured": self._sparse,
            "reference_net": f"{self.spec.reference} {REFERENCE_VERSION}",
        }
        return fingerprint(self.spec, runtime_version=torch.__version__, extra={**extra, "clock": self.clock})

    @property
    def clock(self) -> ClockName:
        """Wall time on a GPU: the thread sleeps or spins until it is done."""
        return clock_of(self.spec, on_cpu=self.device == "cpu")


def make_semi_structured(module: nn.Module) -> list[str]:
    """Stores every matrix that keeps 2 of 4 inputs in the layout of sparse tensor cores; returns their names.

    Only bf16 and fp16 matrices whose sides are multiples of 64 have such kernels; the rest stays as it is.
    """
    changed = []
    for name, weight in list(module.named_parameters()):
        if weight.dim() != 2 or weight.dtype not in (torch.bfloat16, torch.float16) or not keeps_two_of_four(weight):
            continue
        if weight.shape[0] % 64 or weight.shape[1] % 64:
            continue
        owner, _, leaf = name.rpartition(".")
        compressed = nn.Parameter(to_sparse_semi_structured(weight.detach()), requires_grad=False)
        setattr(module.get_submodule(owner), leaf, compressed)
        changed.append(name)
    return changed


def keeps_two_of_four(weight: Tensor) -> bool:
    """Returns whether at most 2 of every 4 consecutive inputs are not zero."""
    if weight.shape[1] % 4:
        return False
    return bool(((weight.detach().reshape(-1, 4) != 0).sum(1) <= 2).all())


def _recorded(run: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Call:
    """Returns a call that replays one recorded CUDA graph."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.inference_mode(), torch.cuda.stream(side):
        for _ in range(3):  # lazy initialisations must not be recorded
            run(*inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        out = run(*inputs)

    def call() -> object:
        graph.replay()
        torch.cuda.synchronize()
        return out

    return call


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

"""torch.export programs (.pt2): for the torch device and for users who stay in torch."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwsearch.errors import DeviceError, UserError
from hwsearch.export.base import Exporter, eval_mode
from hwsearch.results import Artifact
from hwsearch.torch_program import read_program

ENTRY = "model.pt2"


class TorchExporter(Exporter):
    """Exports torch.export programs with dynamic batch. The archive's bytes differ from one export to the next.

    bf16 programs hold their weights and compute in bf16; inputs and outputs stay float32.
    """

    format = "torch"
    precisions = ("fp32", "bf16")

    def __init__(self) -> None:
        self._opened: tuple[Artifact, nn.Module] | None = None

    def export(
        self,
        module: nn.Module,
        example: tuple[Tensor, ...],
        *,
        precision: str = "fp32",
        costs: Mapping[str, float],
        calibration: Sequence[tuple[Tensor, ...]] = (),
    ) -> Artifact:
        """Returns the program; see `Exporter.export`."""
        self.check_precision(precision)
        # A dimension of size 1 would be taken for a constant.
        two = tuple(tensor.repeat(2, *[1] * (tensor.dim() - 1)) if len(tensor) == 1 else tensor for tensor in example)
        batch = torch.export.Dim("batch")
        if precision == "bf16":
            module = InBfloat16(module)
        buffer = io.BytesIO()
        try:
            with eval_mode(module), torch.no_grad(), _quiet():
                program = torch.export.export(module, two, dynamic_shapes=_dynamic(module, len(two), batch))
                torch.export.save(program, buffer)
        except Exception as error:  # tracing fails in many ways
            text = " ".join(str(error).split())[:300]
            raise UserError(f"module {type(module).__name__} cannot be exported by torch.export: {text}") from error
        return Artifact(
            format=self.format,
            precision=precision,
            files={ENTRY: buffer.getvalue()},
            entry=ENTRY,
            costs=dict(costs),
            input_shapes={f"input{i}": tuple(tensor.shape[1:]) for i, tensor in enumerate(example)},
        )

    def run(self, artifact: Artifact, inputs: tuple[NDArray[np.generic], ...]) -> NDArray[np.float32]:
        """Returns the program's output on the CPU; see `Exporter.run`."""
        if self._opened is None or self._opened[0] is not artifact:
            try:
                self._opened = (artifact, read_program(artifact.content).module())
            except ValueError as error:
                raise DeviceError(f"torch cannot open the program: {' '.join(str(error).split())[:300]}") from error
        try:
            with torch.inference_mode():
                out: Tensor = self._opened[1](*(torch.from_numpy(np.array(array)) for array in inputs))
        except Exception as error:  # torch.export's guards raise AssertionError, operators RuntimeError
            raise DeviceError(f"torch cannot run the program: {' '.join(str(error).split())[:300]}") from error
        return out.numpy().astype(np.float32)


def _dynamic(module: nn.Module, n_inputs: int, batch: object) -> tuple[object, ...]:
    """Returns which axes are open, in the structure of the module's arguments."""
    each = tuple({0: batch} for _ in range(n_inputs))
    return (each,) if isinstance(module, InBfloat16) else each  # *inputs is one argument


class InBfloat16(nn.Module):
    """A copy of a module in bf16 that takes and gives float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).to(torch.bfloat16)
        self.train(module.training)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Returns the module's output, float32."""
        cast = tuple(x.to(torch.bfloat16) if x.is_floating_point() else x for x in inputs)
        out: Tensor = self.module(*cast)
        return out.float()


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

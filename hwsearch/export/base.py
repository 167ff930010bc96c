"""The contract of exporters: a plain module to the bytes that a runtime opens, and running those bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwsearch.errors import UserError
from hwsearch.results import Artifact


class Exporter(ABC):
    """Turns a plain module into the bytes that a runtime opens, and runs them."""

    format: str
    """Of the artifacts; a device states the formats that it opens."""
    precisions: tuple[str, ...] = ("fp32",)
    """What `export` can make."""

    @abstractmethod
    def export(
        self,
        module: nn.Module,
        example: tuple[Tensor, ...],
        *,
        precision: str = "fp32",
        costs: Mapping[str, float],
        calibration: Sequence[tuple[Tensor, ...]] = (),
    ) -> Artifact:
        """Returns the artifact of `module` in eval mode; the module is left as it was.

        Args:
            module: plain module on the CPU.
            example: its inputs, each (batch, ...). Batch is dynamic in the artifact where the format can.
            precision: one of `precisions`.
            costs: exact costs of the architecture, stored with the artifact.
            calibration: batches of real inputs for quantised precisions, from the train split.

        Raises:
            UserError: the module cannot be exported; names the operator.
        """

    @abstractmethod
    def run(self, artifact: Artifact, inputs: tuple[NDArray[np.generic], ...]) -> NDArray[np.float32]:
        """Returns the artifact's output (batch, ...) on a batch, computed by the real runtime."""

    def check_precision(self, precision: str) -> None:
        """Raises UserError unless `precision` can be exported."""
        if precision not in self.precisions:
            raise UserError(
                f"precision of format {self.format} must be one of {', '.join(self.precisions)}, but got {precision!r}."
            )


def check_calibration(calibration: Sequence[tuple[Tensor, ...]], example: tuple[Tensor, ...], precision: str) -> None:
    """Raises UserError unless there are batches of finite inputs that are shaped as the example's."""
    if not calibration:
        raise UserError(f"calibration must hold at least one batch for {precision}, but got none.")
    wanted = [tuple(tensor.shape[1:]) for tensor in example]
    for i, batch in enumerate(calibration):
        shapes = [tuple(tensor.shape[1:]) for tensor in batch]
        if shapes != wanted or not all(len(tensor) for tensor in batch):
            got = [tuple(tensor.shape) for tensor in batch]
            raise UserError(
                f"calibration must hold inputs of shapes {wanted} after the batch, but batch {i} holds {got}."
            )
        if not all(bool(torch.isfinite(tensor).all()) for tensor in batch):
            raise UserError(f"calibration must hold finite values, but batch {i} does not.")


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Holds a module in eval mode; each submodule's own mode is restored on leaving."""
    modes = {part: part.training for part in module.modules()}
    if not any(modes.values()):
        yield  # the usual case; setting hundreds of modes twice takes milliseconds
        return
    try:
        module.eval()
        yield
    finally:
        for part, training in modes.items():
            part.training = training

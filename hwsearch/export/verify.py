"""Verify: an artifact, run by its real runtime, against the module that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwsearch.errors import DeviceError
from hwsearch.export.base import Exporter, eval_mode
from hwsearch.results import Artifact

FP32_TOLERANCE = 1e-4
TINY = 1e-6
"""Outputs below this are taken for zero."""


@dataclass(frozen=True)
class Agreement:
    """How an artifact's outputs compare with its module's.

    Args:
        max_abs_error: largest absolute difference of two outputs.
        max_rel_error: the same divided by the largest absolute output of the module in the same batch.
        top1_agreement: share of rows whose largest output (over the last axis) is at the same place.
        n_examples: rows compared.
    """

    max_abs_error: float
    max_rel_error: float
    top1_agreement: float
    n_examples: int


def compare(
    module: nn.Module, artifact: Artifact, exporter: Exporter, *, batches: Sequence[tuple[Tensor, ...]]
) -> Agreement:
    """Returns the agreement over batches of inputs; the module is left as it was.

    Args:
        module: in any mode; it is compared in eval mode.
        artifact: made by `exporter` from the module.
        exporter: runs it.
        batches: each as the module takes it; not empty.
    """

    def run(batch: tuple[Tensor, ...]) -> NDArray[np.float32]:
        return exporter.run(artifact, tuple(tensor.numpy() for tensor in batch))

    return compare_outputs(module, run, batches=batches, what=f"the exported {artifact.format} model")


def compare_outputs(
    module: nn.Module,
    run: Callable[[tuple[Tensor, ...]], NDArray[np.float32]],
    *,
    batches: Sequence[tuple[Tensor, ...]],
    what: str,
) -> Agreement:
    """Returns the agreement of a module with anything that takes the same inputs.

    Args:
        module: as for `compare`.
        run: batch -> outputs.
        batches: as for `compare`.
        what: of `run`, for messages.

    Raises:
        DeviceError: outputs of other shapes.
    """
    if not batches:
        raise ValueError("batches must hold at least one batch, but got none.")
    absolute, relative, same, rows = 0.0, 0.0, 0.0, 0
    for batch in batches:
        with eval_mode(module), torch.no_grad():
            want: NDArray[np.float32] = module(*batch).numpy()
        got = run(batch)
        if got.shape != want.shape:
            raise DeviceError(f"{what} must give outputs {want.shape}, but gave {got.shape}.")
        # NaN must count as a difference, and max() would drop it
        error = float(np.max(np.abs(got - want))) if np.isfinite(got).all() else float("inf")
        absolute = max(absolute, error)
        relative = max(relative, error / max(TINY, float(np.max(np.abs(want)))))
        same += float((got.argmax(-1) == want.argmax(-1)).mean()) * len(want)
        rows += len(want)
    return Agreement(absolute, relative, same / rows, rows)


def verify(
    module: nn.Module,
    artifact: Artifact,
    exporter: Exporter,
    *,
    batches: Sequence[tuple[Tensor, ...]],
    tolerance: float | None = FP32_TOLERANCE,
) -> Agreement:
    """Returns the agreement, after checking it.

    Args:
        module: as for `compare`.
        artifact: as for `compare`.
        exporter: as for `compare`.
        batches: as for `compare`.
        tolerance: largest `max_rel_error`; None only reports (quantised precisions).

    Raises:
        DeviceError: the outputs differ by more.
    """
    agreement = compare(module, artifact, exporter, batches=batches)
    if tolerance is not None and not agreement.max_rel_error <= tolerance:
        raise DeviceError(
            f"the exported {artifact.format} model must agree with its module within {tolerance:g}, but differs by "
            f"{agreement.max_rel_error:.3g} (top-1 agreement {100 * agreement.top1_agreement:.1f} % of "
            f"{agreement.n_examples} examples)."
        )
    return agreement

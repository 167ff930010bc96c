"""Checkpoints: tensors and a few numbers in one safetensors file that is either whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hwsearch.errors import UserError
from hwsearch.runfolder import write_atomic

FORMAT = 1


class CheckpointError(UserError):
    """A checkpoint that is broken, of another format or of another training."""


@dataclass(frozen=True)
class TrainingState:
    """What a training needs in order to go on as if it had not stopped.

    Args:
        digest: of what is trained; a checkpoint continues only the same training.
        epoch: epochs done.
        step: steps done.
        elapsed_seconds: wall time spent.
        epoch_losses: mean loss of every epoch done.
        finished: the training is over.
        tensors: weights, buffers, the optimizer's memory and the recipes' state, by name.
    """

    digest: str
    epoch: int = 0
    step: int = 0
    elapsed_seconds: float = 0.0
    epoch_losses: tuple[float, ...] = ()
    finished: bool = False
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def save_state(path: Path, state: TrainingState) -> None:
    """Writes a checkpoint atomically."""
    numbers = {name: getattr(state, name) for name in state.__dataclass_fields__ if name != "tensors"}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    write_atomic(path, save(tensors, metadata={"hwsearch": json.dumps({"format": FORMAT, **numbers})}))


def load_state(path: Path) -> TrainingState:
    """Returns the checkpoint's state; its tensors are copies on the CPU.

    Raises:
        CheckpointError: the file cannot be read, or is of another format.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            numbers = json.loads((file.metadata() or {}).get("hwsearch", "{}"))
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"checkpoint {path} must be a whole safetensors file, but got: {error}.") from error
    if numbers.pop("format", None) != FORMAT:
        raise CheckpointError(f"checkpoint {path} must be a training checkpoint of format {FORMAT}, but is not.")
    numbers["epoch_losses"] = tuple(numbers["epoch_losses"])
    return TrainingState(**numbers, tensors=tensors)


def split_tensors(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns the tensors whose name starts with `prefix/`, without it."""
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}

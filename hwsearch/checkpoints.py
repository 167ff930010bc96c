"""Checkpoints: full weights of a super-network from a file, in our names or in published ones."""

from __future__ import annotations

from pathlib import Path

from hwsearch.errors import UserError
from search_spaces.published import Checkpoint, CheckpointError, from_published, read_checkpoint
from search_spaces.supernet import Supernet

SHOWN = 4
"""Tensors that do not fit are named up to so many."""


def load_weights(supernet: Supernet, path: Path, *, sha256: str | None = None) -> None:
    """Loads full weights from a file: as saved by hwsearch, or a published checkpoint of the family.

    Raises:
        UserError: missing or broken file, another digest, or weights of another network; nothing is loaded then.
    """
    try:
        load_checkpoint(supernet, read_checkpoint(path, sha256=sha256), path)
    except CheckpointError as error:
        head, *details = str(error).splitlines()
        shown = "; ".join(line.strip() for line in details[:SHOWN])
        more = f"; and {len(details) - SHOWN} more: see hwsearch weights inspect" if len(details) > SHOWN else ""
        raise UserError(f"{head} {shown}{more}".rstrip()) from error


def load_checkpoint(supernet: Supernet, checkpoint: Checkpoint, path: Path) -> None:
    """Loads the tensors of a checkpoint, by our names or by published ones.

    Raises:
        CheckpointError: they do not fit; names every one that does not.
    """
    try:
        if is_ours(supernet, checkpoint):
            supernet.load_arrays({name: tensor.numpy() for name, tensor in checkpoint.tensors.items()})
        else:
            from_published(supernet, checkpoint.tensors)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def is_ours(supernet: Supernet, checkpoint: Checkpoint) -> bool:
    """Whether most tensors of a checkpoint carry our names."""
    ours = supernet.tensors().keys()
    return 2 * len(ours & checkpoint.tensors.keys()) > len(ours)

"""Data of the user's own: three functions that return inputs, with or without labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwsearch.data.dataset import Dataset, Split
from hwsearch.data.named_callables import load_callable
from hwsearch.data.spec import DataError, DataSpec


class TensorSplit(Split):
    """Inputs as the network takes them, in memory.

    Args:
        name: as for `Split`.
        indices: as for `Split`.
        labels: as for `Split`.
        tensor: (n, ...), of any type.
    """

    def __init__(self, name: str, indices: NDArray[np.int64], labels: NDArray[np.int64], *, tensor: Tensor) -> None:
        super().__init__(name, indices, labels)
        self.tensor = tensor

    def inputs(self, rows: NDArray[np.intp], rng: np.random.Generator | None = None) -> Tensor:
        """Returns the rows, never augmented."""
        return self.tensor[torch.from_numpy(np.asarray(rows, dtype=np.int64))]

    def content(self) -> Iterator[bytes]:
        """Yields type, shape and bytes."""
        yield f"{self.tensor.dtype}{tuple(self.tensor.shape)}".encode()
        yield self.tensor.contiguous().numpy().tobytes()


class CallablesSpec(DataSpec):
    """Data from the user's functions; each returns inputs (n, ...) or a pair of inputs and labels (n,).

    Without labels every label is 0: enough for `task: fidelity`, calibration and repair.

    Args:
        train: `module:function` or `file.py:function`: for calibration and training.
        search: scores candidates.
        holdout: never seen by the search.
    """

    train: str
    search: str
    holdout: str

    def open(self) -> Dataset:
        """Returns what the three functions return, as three splits that do not share a row.

        Raises:
            DataError: not tensors or arrays of one shape, or labels of another length.
        """
        splits = {}
        start = 0
        for part in ("train", "search", "holdout"):
            made = load_callable(getattr(self, part), f"data.{part}")()
            inputs, labels = made if isinstance(made, tuple) else (made, None)
            tensor = torch.as_tensor(inputs)
            classes = np.zeros(len(tensor), dtype=np.int64) if labels is None else np.asarray(labels, dtype=np.int64)
            if tensor.dim() < 2 or classes.shape != (len(tensor),):
                raise DataError(
                    f"data.{part} must return inputs (n, ...) and, if any, labels (n,), "
                    f"but got {tuple(tensor.shape)} and {classes.shape}."
                )
            rows = np.arange(start, start + len(tensor), dtype=np.int64)
            start += len(tensor)
            splits[part] = TensorSplit(part, rows, classes, tensor=tensor)
        shapes = {part: tuple(s.tensor.shape[1:]) for part, s in splits.items()}
        if len(set(shapes.values())) > 1:
            raise DataError(f"data must have inputs of one shape in all splits, but got {shapes}.")
        digest = hashlib.sha256("".join(s.digest for s in splits.values()).encode()).hexdigest()
        return Dataset(
            name="callables",
            input_shape=shapes["train"],
            n_classes=int(max(s.labels.max() for s in splits.values())) + 1,
            train=splits["train"],
            search=splits["search"],
            holdout=splits["holdout"],
            preprocessing={"from": [self.train, self.search, self.holdout], "sha256": digest},
        )

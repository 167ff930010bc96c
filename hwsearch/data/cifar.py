"""CIFAR-10 and CIFAR-100 from a folder: the binary files, or the Python ones read without running their pickles."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hwsearch.data.augmentation import Augmentation
from hwsearch.data.dataset import ArraySplit, Dataset
from hwsearch.data.preprocessing import Preprocessing
from hwsearch.data.spec import DataError, DataSpec, existing_folder
from hwsearch.data.splits import limited, stratified_split

PIXELS = 3 * 32 * 32
PREPROCESSING = {
    10: Preprocessing(255.0, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    100: Preprocessing(255.0, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
"""By number of classes: channel means and standard deviations of the training images."""
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

# What NumPy arrays in a pickle of any NumPy and Python version consist of; nothing else is admitted.
ADMITTED = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} is not admitted")
        if name == "_reconstruct":
            # Older files name a module that newer NumPy versions moved.
            return np.empty(0).__reduce__()[0]
        return super().find_class(module, name)


class CifarSpec(DataSpec):
    """What both data sets share.

    The hold-out is the official test set, search-validation a stratified share of the training set.
    Rows count the training files first, then the test file: 0 .. 49,999 and 50,000 .. 59,999.

    Args:
        path: folder with the extracted files, or its parent. Either version: `*.bin` or Python.
        augment: shift by up to 4 pixels and mirror training images.
    """

    path: Path
    augment: bool = True
    classes: ClassVar[int]

    def open(self) -> Dataset:
        """Returns (3, 32, 32) inputs. A limit applies to the training rows and to the hold-out rows each."""
        (train_x, train_y), (test_x, test_y) = self._read()
        rows = limited(train_y, self.limit, self.seed)
        parts = stratified_split(train_y[rows], {"search": self.search_fraction}, self.seed)
        test = limited(test_y, self.limit, self.seed)
        preprocessing = PREPROCESSING[self.classes]

        def split(name: str, images: Images, labels: Labels, at: Labels, first: int = 0) -> ArraySplit:
            augmentation = Augmentation(pad=4, flip=True) if self.augment and name == "train" else None
            return ArraySplit(
                name,
                at + first,
                labels[at],
                images=images[at],
                preprocessing=preprocessing,
                augmentation=augmentation,
            )

        return Dataset(
            name=f"cifar{self.classes}",
            input_shape=(3, 32, 32),
            n_classes=self.classes,
            train=split("train", train_x, train_y, rows[parts["train"]]),
            search=split("search", train_x, train_y, rows[parts["search"]]),
            holdout=split("holdout", test_x, test_y, test, first=len(train_y)),
            preprocessing=preprocessing.to_dict(),
        )

    def _read(self) -> tuple[tuple[Images, Labels], tuple[Images, Labels]]:
        folder = existing_folder(self.path, f"data.path of cifar{self.classes}")
        if self.classes == 10:
            binary = ("cifar-10-batches-bin", [f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin")
            python = ("cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)], "test_batch")
        else:
            binary = ("cifar-100-binary", ["train.bin"], "test.bin")
            python = ("cifar-100-python", ["train"], "test")
        for (inner, trains, test), reader in ((binary, read_binary), (python, read_python)):
            for place in (folder, folder / inner):
                if (place / trains[0]).is_file():
                    missing = [name for name in (*trains, test) if not (place / name).is_file()]
                    if missing:
                        raise DataError(f"{place} must hold {missing[0]}, but it is missing (nothing is downloaded).")
                    parts = [reader(place / name, self.classes) for name in trains]
                    return _joined(parts), reader(place / test, self.classes)
        raise DataError(
            f"{folder} must hold the files of CIFAR-{self.classes} ({binary[1][0]} or {python[1][0]}, "
            f"here or in {binary[0]} or {python[0]}), but has neither (nothing is downloaded)."
        )


class Cifar10Spec(CifarSpec):
    """CIFAR-10."""

    classes = 10


class Cifar100Spec(CifarSpec):
    """CIFAR-100 with its 100 fine labels."""

    classes = 100


def _joined(parts: list[tuple[Images, Labels]]) -> tuple[Images, Labels]:
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def read_binary(path: Path, classes: int) -> tuple[Images, Labels]:
    """Returns images (n, 3, 32, 32) and labels (n,) of a `.bin` file: records of 1 (CIFAR-100: 2) + 3,072 bytes.

    Raises:
        DataError: the size is no multiple of a record, or a label is out of range.
    """
    head = 1 if classes == 10 else 2
    raw = np.fromfile(path, dtype=np.uint8)
    if raw.size == 0 or raw.size % (head + PIXELS):
        raise DataError(f"{path} must hold records of {head + PIXELS} bytes, but has {raw.size} bytes.")
    records = raw.reshape(-1, head + PIXELS)
    return records[:, head:].reshape(-1, 3, 32, 32), _checked(records[:, head - 1].astype(np.int64), classes, path)


def read_python(path: Path, classes: int) -> tuple[Images, Labels]:
    """Returns images (n, 3, 32, 32) and labels (n,) of a Python-version file.

    The file is a pickle; only arrays, bytes, numbers, lists and dicts are admitted, so that none of its code runs.

    Raises:
        DataError: anything else in the pickle, or arrays that do not fit.
    """
    try:
        table = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as error:  # a broken pickle raises nearly anything
        raise DataError(f"{path} must be a pickle of plain arrays, but reading it failed: {error}.") from error
    key = b"labels" if classes == 10 else b"fine_labels"
    if not isinstance(table, dict) or b"data" not in table or key not in table:
        raise DataError(f"{path} must hold a dict with b'data' and {key!r}, but does not.")
    images, labels = np.asarray(table[b"data"]), np.asarray(table[key])
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != PIXELS or labels.shape != images.shape[:1]:
        raise DataError(
            f"{path} must hold uint8 data (n, {PIXELS}) and n labels, "
            f"but got {images.dtype} {images.shape} and {labels.shape}."
        )
    return images.reshape(-1, 3, 32, 32), _checked(labels.astype(np.int64), classes, path)


def _checked(labels: Labels, classes: int, path: Path) -> Labels:
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"labels in {path} must be in 0 .. {classes - 1}, but got {labels.min()} .. {labels.max()}.")
    return labels

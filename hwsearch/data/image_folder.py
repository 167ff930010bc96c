"""Images in class folders (the ImageNet layout): decoded with Pillow when a batch asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import Field
from torch import Tensor

from hwsearch.data.dataset import Dataset, Split
from hwsearch.data.preprocessing import Preprocessing
from hwsearch.data.spec import DataError, DataSpec, Share, existing_folder
from hwsearch.data.splits import limited, stratified_split

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
IMAGENET = Preprocessing(255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SMALLEST_CROP = 0.25
"""Share of an image's area that a random crop covers at least (Szegedy et al. 2015: 0.08, for ImageNet)."""


class ImageFolderSpec(DataSpec):
    """Folders named after their classes, under `path/train` and `path/val` (or `test`), or directly under `path`.

    With a `val` (or `test`) folder, that is the hold-out; without one the hold-out is a stratified share.
    Evaluation: shorter side to `resize` (bilinear), centre crop of `size`, ImageNet's mean and std.
    Training: random crop of 25-100 % of the area (aspect 3:4 to 4:3) to `size`, random mirror image.

    Args:
        path: the folder.
        size: side of the network's input.
        resize: shorter side before the centre crop; by default size * 256 / 224, rounded.
        holdout_fraction: used only where there is no `val` or `test` folder.
        augment: random crop and mirror in training; else as in evaluation.
    """

    path: Path
    size: int = Field(default=224, ge=8)
    resize: int | None = Field(default=None, ge=8)
    holdout_fraction: Share = 0.2
    augment: bool = True

    def open(self) -> Dataset:
        """Returns the data; files are listed now and decoded when a batch asks for them."""
        resize = self.resize if self.resize is not None else round(self.size * 256 / 224)
        if resize < self.size:
            raise DataError(f"data.resize must be at least data.size = {self.size}, but got {resize}.")
        root = existing_folder(self.path, "data.path of image_folder")
        train_root = root / "train" if (root / "train").is_dir() else root
        classes = class_names(train_root)
        train_files, train_labels = list_files(train_root, classes)
        rows = limited(train_labels, self.limit, self.seed)
        other = next((root / n for n in ("val", "test") if train_root != root and (root / n).is_dir()), None)
        shares = {"search": self.search_fraction}
        if other is None:
            shares = {"holdout": self.holdout_fraction, **shares}
        at = {name: rows[part] for name, part in stratified_split(train_labels[rows], shares, self.seed).items()}
        files, labels = train_files, train_labels
        if other is not None:
            test_files, test_labels = list_files(other, classes)
            at["holdout"] = limited(test_labels, self.limit, self.seed) + len(train_files)
            files, labels = train_files + test_files, np.concatenate([train_labels, test_labels])

        def split(name: str) -> FolderSplit:
            paths = [files[i] for i in at[name]]
            augment = self.augment and name == "train"
            return FolderSplit(
                name, at[name], labels[at[name]], root=root, paths=paths, size=self.size, resize=resize, augment=augment
            )

        return Dataset(
            name="image_folder",
            input_shape=(3, self.size, self.size),
            n_classes=len(classes),
            train=split("train"),
            search=split("search"),
            holdout=split("holdout"),
            preprocessing={
                **IMAGENET.to_dict(),
                "resize": resize,
                "crop": self.size,
                "interpolation": "bilinear",
                "classes": classes,
            },
        )


class FolderSplit(Split):
    """Image files, decoded on demand; at most one batch is in memory.

    Its digest covers names, sizes in bytes and classes, not pixels: two compressed images with the same name
    and length are as good as never different, and reading all of ImageNet for a digest is.

    Args:
        name: as for `Split`.
        indices: as for `Split`.
        labels: as for `Split`.
        root: names in the digest are relative to it.
        paths: (n,) files.
        size: side of the crop.
        resize: shorter side before a centre crop.
        augment: random crop and mirror when `inputs` gets a generator.
    """

    def __init__(
        self,
        name: str,
        indices: NDArray[np.int64],
        labels: NDArray[np.int64],
        *,
        root: Path,
        paths: list[Path],
        size: int,
        resize: int,
        augment: bool = False,
    ) -> None:
        super().__init__(name, indices, labels)
        self.root, self.paths, self.size, self.resize, self.augment = root, paths, size, resize, augment

    def inputs(self, rows: NDArray[np.intp], rng: np.random.Generator | None = None) -> Tensor:
        """Returns the decoded, cropped and normalised images, (len(rows), 3, size, size)."""
        images = np.empty((len(rows), 3, self.size, self.size), np.uint8)
        for i, row in enumerate(rows):
            image = read_image(self.paths[row])
            if rng is None or not self.augment:
                image = centre_crop(image, self.size, self.resize)
            else:
                image = random_crop(image, self.size, rng)
            images[i] = np.asarray(image).transpose(2, 0, 1)
        return IMAGENET(images)

    def content(self) -> Iterator[bytes]:
        """Yields name and length of every file."""
        for path in self.paths:
            yield f"{path.relative_to(self.root).as_posix()}\0{path.stat().st_size}\n".encode()


def class_names(folder: Path) -> list[str]:
    """Returns the names of the class folders, sorted.

    Raises:
        DataError: fewer than two folders.
    """
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise DataError(f"{folder} must hold one folder per class, at least two, but holds {len(names)}.")
    return names


def list_files(folder: Path, classes: list[str]) -> tuple[list[Path], NDArray[np.int64]]:
    """Returns all image files under the class folders, sorted by class and path, and their classes (n,).

    Raises:
        DataError: a class folder that is missing, unknown or without images.
    """
    unknown = sorted({p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")} - set(classes))
    if unknown:
        raise DataError(f"{folder} must hold the classes of the training folder, but got {unknown[0]!r} as well.")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            raise DataError(f"{folder} must hold a folder for class {name!r}, but it is missing.")
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise DataError(f"{folder / name} must hold at least one image, but holds none.")
        files += found
        labels += [label] * len(found)
    return files, np.array(labels, dtype=np.int64)


def read_image(path: Path) -> Image.Image:
    """Returns the decoded image as RGB.

    Raises:
        DataError: the file is not an image that Pillow reads.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise DataError(f"{path} must be an image, but reading it failed: {error}.") from error


def centre_crop(image: Image.Image, size: int, resize: int) -> Image.Image:
    """Returns the centre square of side `size` after the shorter side was scaled to `resize`."""
    width, height = image.size
    scale = resize / min(width, height)
    scaled = image.resize(
        (max(resize, round(width * scale)), max(resize, round(height * scale))), Image.Resampling.BILINEAR
    )
    left, top = (scaled.width - size) // 2, (scaled.height - size) // 2
    return scaled.crop((left, top, left + size, top + size))


def random_crop(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """Returns a random part (area 25-100 %, aspect 3:4 to 4:3) scaled to `size`, mirrored half the time."""
    width, height = image.size
    area, aspect = rng.uniform(SMALLEST_CROP, 1.0) * width * height, np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    w = min(width, max(1, ceil(np.sqrt(area * aspect))))
    h = min(height, max(1, ceil(np.sqrt(area / aspect))))
    left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    part = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + w, top + h))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part

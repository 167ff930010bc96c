"""Digits, synthetic data, CIFAR and image folders: shapes, splits, readers on small written files, messages."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from hwsearch.data.cifar import Cifar10Spec, Cifar100Spec, read_binary, read_python
from hwsearch.data.digits import DigitsSpec
from hwsearch.data.image_folder import ImageFolderSpec, centre_crop
from hwsearch.data.spec import DataError
from hwsearch.data.synthetic import SyntheticSpec

SPECS = [DigitsSpec(), SyntheticSpec()]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: type(s).__name__)
def test_a_description_is_frozen_travels_and_opens_to_the_same_data(spec):
    with pytest.raises(ValidationError):
        spec.seed = 5
    copy = pickle.loads(pickle.dumps(spec))
    assert copy == spec and hash(copy) == hash(spec)
    assert copy.open().digests() == spec.open().digests()
    assert spec.model_copy(update={"seed": 1}).open().digests() != spec.open().digests()
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(spec)(sizes=3)


def test_digits_are_reproduced_by_numpy_and_sklearn_alone():
    from sklearn.datasets import load_digits

    data = DigitsSpec(size=32).open()
    rows = np.array(data.card()["holdout_rows"])
    x = np.kron(load_digits().images[rows] / 16, np.ones((4, 4)))
    x = ((x - 0.305) / 0.376)[:, None].astype(np.float32)
    got = torch.cat([b for b, _ in data.holdout.batches(100)])
    assert got.shape == (len(rows), 1, 32, 32) == (len(rows), *data.input_shape)
    assert np.abs(got.numpy() - x).max() < 1e-6
    assert np.array_equal(load_digits().target[rows], data.holdout.labels)
    assert abs(len(data.holdout) - 0.2 * 1797) < 5 and abs(len(data.search) - 0.2 * 1797) < 5


def test_digits_size_and_limit():
    with pytest.raises(ValidationError, match="digits size must be a multiple of 8, but got 20"):
        DigitsSpec(size=20)
    data = DigitsSpec(size=8, limit=100).open()
    assert sum(len(s) for s in (data.train, data.search, data.holdout)) == 100
    assert data.input_shape == (1, 8, 8)


def test_synthetic_data_is_learnable_by_the_nearest_class_mean():
    data = SyntheticSpec(shape=(2, 12, 12), n_classes=3, n=300, noise=2.0).open()
    x, y = next(data.train.batches(1000))
    means = torch.stack([x[y == c].mean(0) for c in range(3)])
    xt, yt = next(data.holdout.batches(1000))
    nearest = ((xt[:, None] - means) ** 2).flatten(2).sum(2).argmin(1)
    assert (nearest == yt).float().mean() > 0.95
    with pytest.raises(ValidationError, match=r"synthetic shape must be positive, but got \[0, 4, 4\]"):
        SyntheticSpec(shape=(0, 4, 4))


def write_cifar(folder, classes, *, python, n=40, dtype=np.uint8):
    rng = np.random.default_rng(0)
    inner = (
        folder
        / {
            (10, False): "cifar-10-batches-bin",
            (10, True): "cifar-10-batches-py",
            (100, False): "cifar-100-binary",
            (100, True): "cifar-100-python",
        }[classes, python]
    )
    inner.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if classes == 10 else ["train", "test"]
    for name in names:
        x = rng.integers(0, 256, (n, 3072)).astype(dtype)
        y = np.arange(n) % 10
        if python:
            key = b"labels" if classes == 10 else b"fine_labels"
            (inner / name).write_bytes(pickle.dumps({b"data": x, key: y.tolist()}, protocol=2))
        else:
            head = [y[:, None]] if classes == 10 else [y[:, None] // 5, y[:, None]]
            (inner / f"{name}.bin").write_bytes(np.concatenate([*head, x], axis=1).astype(np.uint8).tobytes())
    return inner


@pytest.mark.parametrize("classes", [10, 100])
def test_both_versions_of_cifar_give_the_same_data(tmp_path, classes):
    spec = {10: Cifar10Spec, 100: Cifar100Spec}[classes]
    write_cifar(tmp_path / "b", classes, python=False)
    inner = write_cifar(tmp_path / "p", classes, python=True)
    binary = spec(path=tmp_path / "b").open()
    assert binary.digests() == spec(path=inner).open().digests()
    n_train = 200 if classes == 10 else 40
    assert binary.holdout.indices.min() == n_train and len(binary.holdout) == 40
    assert len(binary.train) + len(binary.search) == n_train
    x, _ = next(binary.search.batches(8))
    assert x.shape == (8, 3, 32, 32)
    assert not torch.equal(next(binary.train.shuffled(8, np.random.default_rng(0)))[0], x)
    limited = spec(path=inner, limit=30, augment=False).open()
    assert len(limited.holdout) == 30 and len(limited.train) + len(limited.search) == 30


def test_cifar_files_that_are_missing_or_broken_are_named(tmp_path):
    with pytest.raises(
        DataError, match=r"data.path of cifar10 must be a folder .*nowhere is none \(nothing is downloaded"
    ):
        Cifar10Spec(path=tmp_path / "nowhere").open()
    with pytest.raises(DataError, match=r"must hold the files of CIFAR-10 .* but has neither"):
        Cifar10Spec(path=tmp_path).open()
    inner = write_cifar(tmp_path, 10, python=False)
    (inner / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"must hold data_batch_3.bin, but it is missing"):
        Cifar10Spec(path=tmp_path).open()
    broken = inner / "test_batch.bin"
    broken.write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match="must hold records of 3073 bytes, but has 100 bytes"):
        read_binary(broken, 10)
    broken.write_bytes(b"\x0b" + b"\0" * 3072)
    with pytest.raises(DataError, match=r"labels in .* must be in 0 .. 9, but got 11 .. 11"):
        read_binary(broken, 10)


class Exploit:
    def __reduce__(self):
        return print, ("code from a data file ran",)


def test_a_pickle_with_code_is_refused_and_its_code_does_not_run(tmp_path, capsys):
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": Exploit()}))
    with pytest.raises(
        DataError, match=r"must be a pickle of plain arrays, but reading it failed: .*print is not admitted"
    ):
        read_python(path, 10)
    assert "ran" not in capsys.readouterr().out
    path.write_bytes(b"no pickle")
    with pytest.raises(DataError, match="must be a pickle of plain arrays"):
        read_python(path, 10)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(DataError, match="must hold a dict with b'data' and b'labels'"):
        read_python(path, 10)
    path.write_bytes(pickle.dumps({b"data": np.zeros((2, 5), np.uint8), b"labels": [1, 2]}))
    with pytest.raises(DataError, match=r"must hold uint8 data \(n, 3072\) and n labels, but got uint8 \(2, 5\)"):
        read_python(path, 10)


def write_images(root, classes=("cat", "dog"), n=5, size=(20, 14)):
    rng = np.random.default_rng(1)
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 100, (size[1], size[0], 3)) + 100 * c
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")


def test_an_image_folder_with_val_has_it_as_holdout(tmp_path):
    write_images(tmp_path / "train", n=10)
    write_images(tmp_path / "val", n=3)
    data = ImageFolderSpec(path=tmp_path, size=8).open()
    assert data.input_shape == (3, 8, 8) and data.n_classes == 2
    assert (len(data.train), len(data.search), len(data.holdout)) == (16, 4, 6)
    assert data.holdout.indices.min() == 20
    x, y = next(data.holdout.batches(6))
    assert x.shape == (6, 3, 8, 8) and y.tolist() == [0, 0, 0, 1, 1, 1]
    assert x[y == 1].mean() > x[y == 0].mean() + 1  # dogs were written brighter
    assert data.preprocessing["classes"] == ["cat", "dog"] and data.preprocessing["resize"] == 9


def test_an_image_folder_without_val_is_split_and_training_is_augmented(tmp_path):
    write_images(tmp_path, n=10)
    spec = ImageFolderSpec(path=tmp_path, size=8, seed=3)
    data = spec.open()
    assert (len(data.train), len(data.search), len(data.holdout)) == (12, 4, 4)
    rows = np.arange(4)
    one, same = (data.train.inputs(rows, np.random.default_rng(0)) for _ in range(2))
    assert torch.equal(one, same) and not torch.equal(one, data.train.inputs(rows))
    assert data.digests() == spec.open().digests()
    (tmp_path / "cat" / "0.png").write_bytes(b"no image")
    assert data.digests() != spec.open().digests()
    with pytest.raises(DataError, match=r"0\.png must be an image, but reading it failed"):
        list(spec.open().train.batches(4)), list(spec.open().search.batches(4)), list(spec.open().holdout.batches(4))


def test_centre_crop_takes_the_middle():
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, 8:12] = 255
    assert np.asarray(centre_crop(Image.fromarray(pixels), 4, 10)).min() == 255
    assert centre_crop(Image.fromarray(pixels), 16, 16).size == (16, 16)


def test_image_folders_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(DataError, match=r"data.path of image_folder must be a folder .* \(nothing is downloaded\)"):
        ImageFolderSpec(path=tmp_path / "x").open()
    with pytest.raises(DataError, match="must hold one folder per class, at least two, but holds 0"):
        ImageFolderSpec(path=tmp_path).open()
    write_images(tmp_path / "train", n=6)
    write_images(tmp_path / "val", ("cat",))
    with pytest.raises(DataError, match="must hold a folder for class 'dog', but it is missing"):
        ImageFolderSpec(path=tmp_path).open()
    (tmp_path / "val" / "dog").mkdir()
    with pytest.raises(DataError, match="dog must hold at least one image, but holds none"):
        ImageFolderSpec(path=tmp_path).open()
    (tmp_path / "val" / "eel").mkdir()
    with pytest.raises(DataError, match="must hold the classes of the training folder, but got 'eel' as well"):
        ImageFolderSpec(path=tmp_path).open()
    with pytest.raises(DataError, match=r"data.resize must be at least data.size = 32, but got 16"):
        ImageFolderSpec(path=tmp_path, size=32, resize=16).open()

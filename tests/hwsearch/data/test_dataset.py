"""Dataset and splits: no overlap, digests, batches; preprocessing and augmentation in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hwsearch.data.augmentation import Augmentation
from hwsearch.data.dataset import ArraySplit, Dataset
from hwsearch.data.prepared import prepared
from hwsearch.data.preprocessing import Preprocessing

PLAIN = Preprocessing(1.0, (0.0,), (1.0,))


def split(name="train", indices=(0, 1, 2, 3), labels=(0, 1, 0, 1), value=0.0, augmentation=None):
    indices = np.array(indices, np.int64)
    images = np.full((len(indices), 1, 4, 4), value, np.float32) + indices[:, None, None, None].astype(np.float32)
    return ArraySplit(
        name, indices, np.array(labels, np.int64), images=images, preprocessing=PLAIN, augmentation=augmentation
    )


def dataset(train=None, search=None, holdout=None, n_classes=2):
    return Dataset(
        "toy",
        (1, 4, 4),
        n_classes,
        train or split("train"),
        search or split("search", (4, 5), (0, 1)),
        holdout or split("holdout", (6, 7), (0, 1)),
        PLAIN.to_dict(),
    )


def test_splits_that_share_rows_are_refused():
    with pytest.raises(
        ValueError, match=r"splits must not overlap, but train and holdout share 2 rows \(the first: 2\)"
    ):
        dataset(holdout=split("holdout", (2, 3), (0, 1)))


def test_a_row_twice_in_a_split_is_refused():
    with pytest.raises(ValueError, match="split 'search' must hold every row once"):
        dataset(search=split("search", (4, 4), (0, 1)))


def test_labels_must_be_classes():
    with pytest.raises(ValueError, match=r"labels of split 'train' must be in 0 .. 1, but got 0 .. 5"):
        dataset(train=split(labels=(0, 1, 5, 1)))


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="split 'train' must have one label per index and at least one example"):
        split(labels=(0, 1))
    with pytest.raises(ValueError, match="must have one image per index, but got 3 images"):
        ArraySplit(
            "a", np.arange(2), np.zeros(2, np.int64), images=np.zeros((3, 1, 2, 2), np.uint8), preprocessing=PLAIN
        )


def test_the_digest_tells_content_indices_and_labels_apart():
    digests = {
        split().digest,
        split(value=1.0).digest,
        split(labels=(1, 1, 0, 1)).digest,
        split(indices=(0, 1, 2, 4)).digest,
    }
    assert len(digests) == 4
    assert split().digest == split().digest
    assert len(split().digest) == 64


def test_batches_cover_everything_in_order_and_shuffled_ones_once():
    s = split()
    x, y = zip(*s.batches(3), strict=True)
    assert [len(b) for b in x] == [3, 1]
    assert torch.cat(x)[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert torch.cat(y).tolist() == [0, 1, 0, 1]
    seen = [x[:, 0, 0, 0].tolist() for x, _ in s.shuffled(2, np.random.default_rng(0))]
    assert sorted(i for batch in seen for i in batch) == [0, 1, 2, 3]
    again = [x[:, 0, 0, 0].tolist() for x, _ in s.shuffled(2, np.random.default_rng(0))]
    assert seen == again
    assert len(list(s.shuffled(3, np.random.default_rng(0)))) == 1  # the rest is dropped


def test_batch_size_is_checked():
    with pytest.raises(ValueError, match="batch_size must be at most the 4 examples of the train split, but got 5"):
        next(split().shuffled(5, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="batch_size must be at least 1, but got 0"):
        next(split().batches(0))


def test_the_card_lists_what_is_needed_to_score_again():
    card = dataset().card()
    assert card["holdout_rows"] == [6, 7]
    assert card["sha256"] == dataset().digests()
    assert card["sizes"] == {"train": 4, "search": 2, "holdout": 2}


def test_preprocessing_is_what_it_says():
    p = Preprocessing(16.0, (0.25,), (0.5,), repeat=2)
    x = p(np.array([[[[0, 8], [16, 4]]]], np.uint8))
    want = (np.kron(np.array([[0, 8], [16, 4]]) / 16, np.ones((2, 2))) - 0.25) / 0.5
    assert np.allclose(x[0, 0].numpy(), want)
    assert p.to_dict()["steps"] == "repeat each pixel of x / 16 2 x 2 times; then (x - 0.25) / 0.5 in float32"
    two = Preprocessing(255.0, (0.1, 0.2), (1.0, 2.0))
    assert two.to_dict()["steps"] == "x / 255; then (x - [0.1, 0.2]) / [1, 2] per channel in float32"


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0.0, (0.0,), (1.0,)), "scale and std must be positive, but got 0.0"),
        ((1.0, (0.0,), (0.0,)), "scale and std must be positive"),
        ((1.0, (0.0, 1.0), (1.0,)), "mean and std must have one finite value per channel"),
        ((1.0, (0.0,), (1.0,), 0), "repeat must be at least 1, but got 0"),
    ],
)
def test_preprocessing_is_checked(numbers, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(*numbers)


def test_augmentation_shifts_and_mirrors_whole_images():
    x = torch.arange(1.0, 17.0).view(1, 1, 4, 4).repeat(64, 1, 1, 1)
    padded = torch.nn.functional.pad(x[0, 0], (1, 1, 1, 1))
    allowed = [padded[i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    allowed += [a.flip(1) for a in allowed]
    out = Augmentation(pad=1, flip=True)(x, np.random.default_rng(0))
    found = {next(k for k, a in enumerate(allowed) if torch.equal(image[0], a)) for image in out}
    assert len(found) > 9  # 64 draws of 18: shifts and both sides occur
    with pytest.raises(ValueError, match="augmentation pad must be at least 0, but got -1"):
        Augmentation(pad=-1)


def test_only_shuffled_batches_are_augmented():
    s = split(augmentation=Augmentation(pad=2))
    assert torch.equal(next(s.batches(4))[0], split().inputs(np.arange(4)))
    shifted = next(s.shuffled(4, np.random.default_rng(1)))[0]
    assert (shifted == 0).sum() > (split().inputs(np.arange(4)) == 0).sum()


def test_prepared_data_are_the_same_rows_seen_otherwise():
    half = prepared(dataset(), lambda x: x[:, :, ::2, ::2] + 1.0)
    assert half.input_shape == (1, 2, 2)
    assert half.digests() == dataset().digests()
    x, y = next(half.train.batches(4))
    assert torch.equal(x, dataset().train.inputs(np.arange(4))[:, :, ::2, ::2] + 1.0)
    assert y.tolist() == [0, 1, 0, 1]
    shuffled = next(half.train.shuffled(4, np.random.default_rng(0)))[0]
    assert sorted(shuffled[:, 0, 0, 0].tolist()) == [1, 2, 3, 4]

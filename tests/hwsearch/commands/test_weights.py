"""`hwsearch weights`: inspect and convert, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hwsearch import checkpoints
from hwsearch.commands.weights import convert, inspect
from hwsearch.errors import ConfigError, UserError
from search_spaces.ofa_networks import OfaMobilenetV3
from search_spaces.published import CheckpointError, to_published
from search_spaces.supernet import Supernet

TINY = ("preset=tiny", "n_classes=10")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"state_dict": to_published(tiny())}, path)
    return path


def tiny(seed: int = 3) -> Supernet:
    return Supernet(OfaMobilenetV3(preset="tiny", n_classes=10), seed=seed)


def test_a_published_checkpoint_converts_to_a_file_that_a_run_takes(published: Path, tmp_path: Path) -> None:
    assert inspect(published, family="ofa_mobilenet_v3", params=TINY)["fits"] == "as published"
    target = tmp_path / "tiny.safetensors"
    answer = convert(published, target, family="ofa_mobilenet_v3", params=TINY)
    assert answer["bytes"] == target.stat().st_size
    assert inspect(target, family="ofa_mobilenet_v3", params=TINY)["fits"] == "as saved by hwsearch"
    for path in (published, target):
        loaded = tiny(seed=4)
        checkpoints.load_weights(loaded, path)
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), tiny().parameters(), strict=True))


def test_inspect_names_what_does_not_fit(published: Path) -> None:
    answer = inspect(published, family="ofa_mobilenet_v3", params=("preset=tiny", "n_classes=7"))
    assert answer["fits"] == "no"
    assert [text.split(":")[0] for text in answer["misshaped"]] == [
        "classifier.linear.weight",
        "classifier.linear.bias",
    ]
    assert "fits" not in inspect(published)


def test_nothing_is_written_when_the_checkpoint_does_not_fit(published: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    with pytest.raises(CheckpointError, match="must fit ofa_mobilenet_v3, but has 2 mis-shaped"):
        convert(published, target, family="ofa_mobilenet_v3", params=("preset=tiny", "n_classes=7"))
    with pytest.raises(CheckpointError, match="must have the SHA-256"):
        convert(published, target, family="ofa_mobilenet_v3", params=TINY, sha256="0" * 64)
    with pytest.raises(UserError, match=r"must be called \*.safetensors"):
        convert(published, tmp_path / "out.pth", family="ofa_mobilenet_v3", params=TINY)
    assert not target.exists()
    target.write_bytes(b"mine")
    with pytest.raises(UserError, match="must not exist"):
        convert(published, target, family="ofa_mobilenet_v3", params=TINY)
    assert target.read_bytes() == b"mine"


def test_unknown_families_and_arguments_are_named(published: Path) -> None:
    with pytest.raises(ConfigError, match=r"--family must be one of .* \(nearest: 'ofa_mobilenet_v3'\)"):
        inspect(published, family="ofa_mobilenet_v2")
    with pytest.raises(ConfigError, match=r"--param.presett is not known \(nearest: 'preset'\)"):
        inspect(published, family="ofa_mobilenet_v3", params=("presett=tiny",))

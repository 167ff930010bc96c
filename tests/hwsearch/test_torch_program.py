"""Reading .pt2 archives must not unpickle anything."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from hwsearch.torch_program import read_program


@pytest.fixture(scope="module")
def archive() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.ones(2, 3),)), buffer)
    return buffer.getvalue()


def changed(archive: bytes, changes: Mapping[str, bytes]) -> bytes:
    """Returns the archive with entries, named by their end, replaced or added."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(out, "w") as target:
        root = source.namelist()[0].split("/")[0]
        rest = dict(changes)
        for name in source.namelist():
            end = next((end for end in rest if name.endswith(end)), None)
            target.writestr(name, source.read(name) if end is None else rest.pop(end))
        for end, content in rest.items():
            target.writestr(f"{root}/{end}", content)
    return out.getvalue()


class Malice:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o700)


def test_program_runs_as_the_module(archive: bytes) -> None:
    module = read_program(archive).module()
    assert module(torch.ones(2, 3)).shape == (2, 2)


def test_pickled_example_inputs_are_not_unpickled(archive: bytes, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    buffer = io.BytesIO()
    torch.save((Malice(trap),), buffer)
    with pytest.raises(ValueError, match=r"[Ww]eights.only"):
        read_program(changed(archive, {"sample_inputs/model.pt": buffer.getvalue()}))
    assert not trap.exists()


@pytest.mark.parametrize("name", ["custom_obj_0", "opaque_obj_0"])
def test_pickled_constants_are_refused(archive: bytes, tmp_path: Path, name: str) -> None:
    content = pickle.dumps(Malice(tmp_path / "trap"))
    with pytest.raises(ValueError, match=f"must hold tensors only, but .*{name} is a pickled object"):
        read_program(changed(archive, {f"data/constants/{name}": content}))
    assert not (tmp_path / "trap").exists()


def test_pickled_weights_are_refused(archive: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        name = next(name for name in source.namelist() if name.endswith("weights_config.json"))
        config = json.loads(source.read(name))
    config["config"]["weight"]["use_pickle"] = True
    with pytest.raises(ValueError, match="must hold raw tensors only"):
        read_program(changed(archive, {"weights_config.json": json.dumps(config).encode()}))


def test_no_archive() -> None:
    with pytest.raises(ValueError, match="not a zip"):
        read_program(b"nothing")

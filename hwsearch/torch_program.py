"""torch.export archives (.pt2), read without unpickling: torch itself would, and a pickle can run code."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch.export import ExportedProgram

PICKLED = ("custom_obj_", "opaque_obj_")
"""Entries that torch would unpickle."""


def read_program(content: bytes) -> ExportedProgram:
    """Returns the program in an archive; tensors and the graph only.

    Raises:
        ValueError: not an archive, or one with pickled objects in it; one line.
    """
    try:
        _check(content)
        with _weights_only():
            return torch.export.load(io.BytesIO(content))
    except Exception as error:  # a broken archive fails in many ways
        raise ValueError(" ".join(str(error).split())[:300] or type(error).__name__) from error


def _check(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            if name.rpartition("/")[2].startswith(PICKLED):
                raise ValueError(f"the archive must hold tensors only, but {name} is a pickled object")
            if name.endswith("config.json") and _uses_pickle(json.loads(archive.read(name))):
                raise ValueError(f"the archive must hold raw tensors only, but {name} lists pickled ones")


def _uses_pickle(entry: object) -> bool:
    if isinstance(entry, dict):
        return bool(entry.get("use_pickle")) or any(_uses_pickle(value) for value in entry.values())
    return isinstance(entry, list) and any(_uses_pickle(value) for value in entry)


@contextmanager
def _weights_only() -> Iterator[None]:
    """Makes every torch.load inside refuse all but tensors, whatever torch.export asks for."""
    with mock.patch.dict(os.environ, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}):
        yield

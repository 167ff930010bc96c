"""Native tests keep compiled kernels in one temporary folder, from run to run: compiling them takes seconds."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def kept_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    if not any(shutil.which(name) for name in (os.environ.get("CC", "gcc"), "cc", "clang")):
        pytest.skip("no C compiler")
    folder = Path(tempfile.gettempdir()) / f"hwsearch-native-tests-{os.getuid()}"
    monkeypatch.setenv("HWSEARCH_CACHE", str(folder))

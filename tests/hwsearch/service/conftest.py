from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

# The helper lies beside the tests, and tests' folders are not on the path.
_spec = importlib.util.spec_from_file_location("served", Path(__file__).with_name("served.py"))
assert _spec is not None and _spec.loader is not None
served = importlib.util.module_from_spec(_spec)
sys.modules["served"] = served
_spec.loader.exec_module(served)


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory):
    """Latency on two devices and accuracy, without trials."""
    return served.catalog(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run with trials and predictors."""
    return served.run_folder(tmp_path_factory.mktemp("served-run") / "run")


@pytest.fixture(scope="session")
def run_catalog(run: Path):
    from hwsearch.service.loading import load

    return load([run], plan_of=served.plan_of)

"""The one folder that all tests of the documentation's commands share."""

from __future__ import annotations

import pytest

from tests.docs.sandbox import Sandbox


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return Sandbox(tmp_path_factory.mktemp("docs"))

"""The folder that the tests of a file share."""

from __future__ import annotations

import pytest

from tests.docs.sandbox import Sandbox


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return Sandbox(tmp_path_factory.mktemp("docs"))

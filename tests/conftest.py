"""Shared fixtures and settings of the test suite."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests import postgres

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported; a busy machine spins otherwise


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """A PostgreSQL server for the whole session; see `tests/postgres.py`."""
    if postgres.programs() is None:
        pytest.skip("needs Debian's package postgresql")
    pytest.importorskip("psycopg")
    with postgres.server() as server:
        yield server


@pytest.fixture
def database(postgres_server: postgres.Server) -> str:
    """The URL of a new, empty PostgreSQL database."""
    return postgres_server.new_database()

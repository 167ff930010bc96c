"""Shared fixtures and settings of the test suite."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests import postgres

# Processes of pytest-xdist share the cores. The policy must be set before torch is imported; a busy machine spins else.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Ray starts its workers with niceness 15: beside a busy neighbour they would hardly get any time.
os.environ.setdefault("RAY_worker_niceness", "0")


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

"""A database as the place of a run's record: opened, or one line that says why not; one driver per run."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import Connection
from sqlalchemy.pool import NullPool

from hwsearch.errors import RunFolderError, UserError, missing_extra

CONNECT_S = 10
"""How long a connection may take; without it an address that drops packets holds a driver for minutes."""
FREED_S = 3.0
"""How long the driver before may take to be gone: the server notices the end of a killed one at once."""
HOLDER = (
    "SELECT application_name FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE locktype = 'advisory' "
    "AND objsubid = 1 AND (classid::bigint << 32) | objid::bigint = %s"
)


def open_database(url: str) -> RDBStorage:
    """Returns the Optuna storage at a database URL; its tables are made where there are none.

    Raises:
        MissingExtraError: the driver of PostgreSQL is not installed.
        UserError: not a URL, nobody answers, no such database, or a wrong password.
    """
    try:
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True, **_options(url)})
    except Exception as error:
        raise _refused(url, error) from error


@contextmanager
def one_driver(url: str | None, run: str) -> Iterator[None]:
    """Holds a run in a PostgreSQL database against a second driver, as the lock of a folder does on one machine.

    The server frees it when the connection ends, so also when the driver is killed. Does nothing for a journal, which
    lies in the locked folder, and for other databases.

    Args:
        url: of the storage; None for a journal.
        run: name.

    Raises:
        RunFolderError: another driver holds it; names its process.
        UserError: the database cannot be opened.
    """
    if url is None or not url.startswith("postgresql"):
        yield
        return
    try:
        connection = sqlalchemy.create_engine(url, poolclass=NullPool, **_options(url)).connect()
    except Exception as error:
        raise _refused(url, error) from error
    with connection:
        _hold(connection, run)
        yield


def _hold(connection: Connection, run: str) -> None:
    connection = connection.execution_options(isolation_level="AUTOCOMMIT")
    # A driver whose machine is gone: its connection ends after about a minute instead of two hours.
    for name, value in (("idle", 30), ("interval", 10), ("count", 3)):
        connection.exec_driver_sql(f"SET tcp_keepalives_{name} = {value}")
    key = int.from_bytes(hashlib.sha256(f"hwsearch {run}".encode()).digest()[:8], signed=True)
    until = time.monotonic() + FREED_S
    while not connection.exec_driver_sql("SELECT pg_try_advisory_lock(%s)", (key,)).scalar():
        if time.monotonic() > until:
            holder = connection.exec_driver_sql(HOLDER, (key,)).scalar()
            raise RunFolderError(
                f"a run must have one driver, but {run!r} in this database is held by {holder or 'another one'}; "
                "runs in one database must have different names."
            )
        time.sleep(0.1)


def _options(url: str) -> dict[str, Any]:
    """Returns what connections to PostgreSQL are told: not to wait for ever, and who we are."""
    if not url.startswith("postgresql"):
        return {}
    who = f"hwsearch process {os.getpid()} on {socket.gethostname()}"[:63]
    return {"connect_args": {"connect_timeout": CONNECT_S, "application_name": who}}


def _refused(url: str, error: Exception) -> UserError:
    if url.startswith("postgresql") and (isinstance(error, ImportError) or "NoSuchModule" in type(error).__name__):
        return missing_extra("psycopg", "postgres", "storage: postgresql+psycopg://...")
    return UserError(f"storage must be a database that Optuna can open, but got: {why(error)}")


def why(error: BaseException) -> str:
    """Returns one line that says why a record could not be read or written; Optuna's own words hide the reason."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(text).splitlines()[0][:300]

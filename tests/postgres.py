"""A PostgreSQL server of one's own, from Debian's programs: started in a temporary folder, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NOBODY = ("postgres", "nobody")
"""Who runs the server where we are root, which PostgreSQL refuses."""
QUICK = "-c fsync=off -c autovacuum=off -c shared_buffers=16MB -c listen_addresses=''"


def programs() -> Path | None:
    """Returns the folder of `initdb` and `pg_ctl`, of the newest version; None without a server."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(found, key=lambda path: float(path.parts[-3]), default=None)
    return None if newest is None else newest.parent


class Server:
    """A server that listens on a Unix socket in its own folder, with the superuser `hwsearch` and no password."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self._programs, self._n = folder, programs, 0
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            users = {entry.pw_name: entry for entry in pwd.getpwall()}
            user = next(users[name] for name in NOBODY if name in users)
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def call(self, program: str, *arguments: str) -> None:
        with (self.folder / "said").open("a+b") as said:  # not a pipe: the server would keep it open
            command = [str(self._programs / program), *arguments]
            code = subprocess.call(command, cwd=self.folder, stdout=said, stderr=said, **self._as)
        assert code == 0, (command, (self.folder / "said").read_text()[-2000:])

    def start(self) -> None:
        options = f"{QUICK} -k {self.folder}"
        log = str(self.folder / "log")
        self.call("pg_ctl", "start", "-w", "-D", str(self.folder / "data"), "-l", log, "-o", options)

    def stop(self, mode: str = "immediate") -> None:
        self.call("pg_ctl", "stop", "-D", str(self.folder / "data"), "-m", mode)

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://hwsearch@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """Returns the URL of a new, empty database."""
        self._n += 1
        name = f"runs{self._n}"
        self.call("createdb", "-h", str(self.folder), "-U", "hwsearch", "-T", "template0", name)
        return self.url(name)


@contextmanager
def server() -> Iterator[Server]:
    """Starts a server; needs `programs()`."""
    found = programs()
    assert found is not None
    folder = Path(tempfile.mkdtemp(prefix="hwsearch-pg-"))  # pytest's own folders are closed to other users
    made = Server(folder, found)
    try:
        made.call("initdb", "-D", str(folder / "data"), "-U", "hwsearch", "--auth=trust", "--no-sync", "-E", "UTF8")
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""A Ray cluster: joining it, its nodes and what fits on them, whether its head still answers."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Collection, Mapping
from typing import Any

import ray

from hwsearch.errors import UserError, WorkerError

OBJECT_STORE_BYTES = 512 * 2**20
STARTS = 2
"""How often a local Ray is tried."""
HEAD_SILENT_S = 20.0
"""The head may be this long out of reach before the run ends; Ray itself ends the process after a minute."""


def join(address: str | None, *, namespace: str | None = None, runtime_env: Mapping[str, Any] | None = None) -> None:
    """Starts a local Ray (no address) or joins a running one, quietly. Ray's own token is used where it asks for one.

    Raises:
        UserError: nobody answers, or Ray refuses: another version of Ray or Python, a wrong token.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        _start_here()
        return
    try:
        knock(address)
        ray.init(
            address=address,
            namespace=namespace,
            runtime_env=None if runtime_env is None else dict(runtime_env),
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError) as error:  # ConnectionError is an OSError; versions: RuntimeError
        reason = " ".join(str(error).split())[:300]
        if "version mismatch" in reason.lower():
            raise UserError(f"executor.address must be a cluster of the same Ray and Python, but: {reason}") from error
        raise UserError(
            f"executor.address must be a running Ray cluster, but {address!r} does not answer: {reason}"
        ) from error


def _start_here() -> None:
    for attempt in range(STARTS):
        try:
            ray.init(
                address="local",  # not a cluster that an environment variable names
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
            )
        except Exception as error:  # Ray raises plain exceptions when a busy machine makes it wait too long
            ray.shutdown()
            if attempt == STARTS - 1:
                reason = " ".join(str(error).split())[:200]
                raise WorkerError(
                    f"Ray must start on this machine, but {STARTS} times: {reason}. "
                    "The same command continues; executor.kind=serial works without Ray"
                ) from error
        else:
            return


def knock(address: str) -> None:
    """Raises OSError if nobody listens at `host:port`; Ray itself would try for minutes."""
    host, found, port = address.removeprefix("ray://").rpartition(":")
    if found and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5.0).close()


def alive_nodes() -> dict[str, dict[str, float]]:
    """Returns node id -> total resources of the nodes that are there."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {str(n["NodeID"]): dict(n["Resources"]) for n in nodes if n["Alive"]}


def check_devices(devices: Collection[str]) -> frozenset[str]:
    """Returns the devices that are tied to nodes which carry the custom resource `device:<name>`.

    On one node a device needs no such resource: it is that node.

    Args:
        devices: those that are not behind an address of their own.

    Raises:
        UserError: several nodes, and none of them carries a device.
    """
    nodes = alive_nodes()
    tied = {name for name in devices if any(r.get(f"device:{name}", 0.0) >= 1 for r in nodes.values())}
    for name in sorted(set(devices) - tied):
        if len(nodes) > 1:
            raise UserError(
                f"devices.{name} must be a node of the cluster, started with "
                f"--resources='{{\"device:{name}\": 1}}', but none of its {len(nodes)} nodes has that resource."
            )
    return frozenset(tied)


class HeadWatch:
    """Says when the head of a cluster no longer answers.

    Args:
        silent_s: how long it may not answer.
    """

    def __init__(self, *, silent_s: float = HEAD_SILENT_S) -> None:
        self.address = str(ray.get_runtime_context().gcs_address)
        self.silent_s = silent_s
        self._heard = self._tried = time.monotonic()

    def check(self) -> None:
        """Knocks now and then.

        Raises:
            WorkerError: the head has been out of reach for too long.
        """
        now = time.monotonic()
        if now - self._tried < min(5.0, self.silent_s / 4):
            return
        self._tried = now
        try:
            knock(self.address)
            self._heard = time.monotonic()
        except OSError as error:
            if now - self._heard > self.silent_s:
                raise WorkerError(
                    f"the head of the Ray cluster must answer, but {self.address} is silent: {error}. "
                    "Nothing is lost: the same command continues on a new head"
                ) from error

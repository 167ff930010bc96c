"""Targets: the instruction sets that the kernels are written for, and which of them this machine has."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hwsearch.errors import UserError


@dataclass(frozen=True)
class Target:
    """An instruction set.

    Args:
        name: as options and cards have it.
        vector: floats per vector, HW_VL.
        flags: of the compiler.
        needs: what /proc/cpuinfo must list.
    """

    name: str
    vector: int
    flags: tuple[str, ...]
    needs: frozenset[str] = frozenset()


TARGETS = {
    target.name: target
    for target in (
        Target("avx512", 16, ("-std=c11", "-O3", "-mavx512f", "-mfma"), frozenset({"avx512f"})),
        Target("avx2", 8, ("-std=c11", "-O3", "-mavx2", "-mfma"), frozenset({"avx2", "fma"})),
        Target("neon", 4, ("-std=c11", "-O3", "-DHW_NEON"), frozenset({"asimd"})),
        Target("portable", 4, ("-std=c99", "-O2", "-DHW_PORTABLE")),
    )
}
"""Best first."""


@cache
def cpu_features() -> frozenset[str]:
    """Returns the flags of /proc/cpuinfo; none where there is no such file."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    words = {
        word for line in lines if line.startswith(("flags", "Features")) for word in line.partition(":")[2].split()
    }
    if not words and platform.machine() in ("arm64", "aarch64"):
        words = {"asimd"}
    return frozenset(words)


def runs_here(target: Target) -> bool:
    """Returns whether this machine has the instructions."""
    return target.needs <= cpu_features()


def best_target() -> Target:
    """Returns the first target whose instructions this machine has."""
    return next(target for target in TARGETS.values() if runs_here(target))


def target_named(name: str) -> Target:
    """Returns a target by its name.

    Raises:
        UserError: there is none.
    """
    if name not in TARGETS:
        raise UserError(f"native target must be one of {', '.join(TARGETS)}, but got {name!r}.")
    return TARGETS[name]


def padded(n: int, vector: int) -> int:
    """Returns the floats of a row of n positions: HW_PAD."""
    return n if n == 1 else -(-n // vector) * vector

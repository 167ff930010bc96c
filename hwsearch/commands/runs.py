"""`hwsearch runs list`, `show`, `clean`: what is on the disk, and what of it is no longer needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hwsearch.errors import UserError
from hwsearch.runfolder import RunFolder, RunLock, holder


@dataclass(frozen=True)
class RunSummary:
    """A run folder at a glance: `state` is working, complete (it has a validated front) or begun."""

    folder: str
    name: str
    state: str
    trials: int
    front: int
    exported: int
    bytes: int


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _front(folder: RunFolder) -> Mapping[str, Any] | None:
    try:
        content = json.loads(folder.front_json.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def summary(path: Path) -> RunSummary:
    """Returns what there is to say about a run folder.

    Raises:
        UserError: there is no run.
    """
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise UserError(f"RUN must be the folder of a run, but {path} holds no {folder.config.name}.")
    config, front = folder.load_config(), _front(folder)
    state = "working" if holder(path) is not None else "complete" if front is not None else "begun"
    return RunSummary(
        folder=str(path),
        name=str(config.get("name", path.name)),
        state=state,
        trials=int((config.get("search") or {}).get("trials", 0)),
        front=0 if front is None else len(front.get("members", ())),
        exported=sum(1 for _ in folder.models.glob("*/card.json")),
        bytes=_bytes(path),
    )


def list_runs(root: Path) -> list[RunSummary]:
    """Returns the runs below a folder, by name.

    Raises:
        UserError: no such folder.
    """
    if not root.is_dir():
        raise UserError(f"ROOT must be a folder, but {root} is none.")
    return [summary(path.parent) for path in sorted(root.glob("*/config.yaml"))]


def show(path: Path) -> dict[str, Any]:
    """Returns a run's summary and what takes its space."""
    found = asdict(summary(path))
    parts = {part.name: _bytes(part) if part.is_dir() else part.stat().st_size for part in sorted(path.iterdir())}
    return {**found, "parts": parts}


def clean(path: Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Removes what only saves work on continuation; returns which files and how many bytes.

    The rule: of a complete run, the training checkpoints go, and the artifacts of nets that are not on its front. The
    record, the super-network, the front, its artifacts and everything exported stay. A larger budget still works
    afterwards: what is missing is made again.

    Raises:
        UserError: no run, one at work, or one without a validated front: it still needs everything.
    """
    found = summary(path)
    if found.state == "begun":
        raise UserError(f"RUN must have a validated front to be cleaned, but {path} has none and still needs all.")
    with RunLock(path):
        folder = RunFolder(path)
        front = _front(folder)
        assert front is not None
        kept = {digest for member in front.get("members", ()) for digest in member.get("artifacts", {}).values()}
        files = [p for p in folder.training.rglob("*") if p.is_file()] if folder.training.is_dir() else []
        if folder.artifacts.is_dir():
            files += [p for a in folder.artifacts.iterdir() if a.name not in kept for p in _files(a)]
        freed = sum(p.stat().st_size for p in files)
        if not dry_run:
            for file in files:
                file.unlink()
            for empty in sorted({p.parent for p in files}, reverse=True):
                if empty != folder.artifacts and not any(empty.iterdir()):
                    empty.rmdir()
    return {"folder": str(path), "files": len(files), "bytes": freed, "removed": not dry_run}


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]

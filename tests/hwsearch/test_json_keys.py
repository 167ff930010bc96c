"""The keys that docs/cli.md promises for --json are those that commands print."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hwsearch.cli import app
from hwsearch.commands.run import run
from tests.hwsearch.runs import Silent, costs_only, write

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def promised() -> dict[str, set[str]]:
    """Returns command -> keys of the rows of the table."""
    rows = re.findall(r"^\| `([a-z ]+)` \| (?:a list of )?(`.+`) \|$", PAGE.read_text(), re.MULTILINE)
    return {command: set(re.findall(r"`(\w+)`", keys)) for command, keys in rows}


def test_what_json_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 1), ("b", 2)):
        raw = costs_only(name=name, seed=seed, search={"engine": "random", "trials": 8})
        run(write(tmp_path, raw), run_dir=Path("runs") / name, observer=Silent())
    calls = {
        "run": ["run", "config.yaml", "--run-dir", "runs/b", "--json"],
        "front": ["front", "runs/a", "--json"],
        "status": ["status", "runs/a", "--json"],
        "report": ["report", "runs/a", "--json"],
        "compare": ["compare", "runs/a", "runs/b", "--json"],
        "init": ["init", "--yes", "--family", "mlp", "--json"],
        "runs list": ["runs", "list", "--json"],
        "runs show": ["runs", "show", "runs/a", "--json"],
        "runs clean": ["runs", "clean", "runs/a", "--dry-run", "--json"],
    }
    found: dict[str, set[str]] = {}
    for name, call in calls.items():
        done = CliRunner().invoke(app, call)
        assert done.exit_code == 0, (call, done.exception)
        value: Any = json.loads(done.stdout)
        found[name] = set(value[0] if isinstance(value, list) else value)
    assert found == promised()

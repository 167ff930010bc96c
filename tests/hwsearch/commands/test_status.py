"""Status from another process, and the schema for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hwsearch.commands.run import run
from hwsearch.commands.status import status, watch
from hwsearch.config import RunConfig, json_schema
from hwsearch.errors import RunFolderError, UserError
from hwsearch.runfolder import RunLock
from tests.hwsearch.runs import Silent, costs_only, digits, write

ROOT = Path(__file__).resolve().parents[3]


def test_status_follows_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(RunFolderError, match=r"a run folder must hold config.yaml"):
        status(folder)
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({"format_version": 1, **costs_only()}))
    assert status(folder)["phase"] == "stopped"
    with RunLock(folder):
        before = status(folder)
        assert before["phase"] == "training" and before["driver"]["pid"]
    run(write(tmp_path, costs_only()), run_dir=folder, observer=Silent())
    found = status(folder)
    assert (found["phase"], found["trials"], found["budget"], found["failed"]) == ("complete", 30, 30, 0)
    members = json.loads((folder / "front.json").read_text())["members"]
    assert found["front"] == len(members)
    assert found["best"]["macs"] == min(m["metrics"]["macs"] for m in members)
    with RunLock(folder):
        assert status(folder)["phase"] == "validating"
    raw = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**raw, "search": {**raw["search"], "trials": 40}}))
    assert status(folder)["phase"] == "stopped"


def test_watching_ends_with_the_driver(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({"format_version": 1, **costs_only()}))
    seen: list[dict[str, Any]] = []
    lock = RunLock(folder)
    lock.__enter__()
    watch(folder, seen.append, every_s=1.0, sleep=lambda _: lock.__exit__(None, None, None))
    assert [found["driver"] is None for found in seen] == [False, True]
    with pytest.raises(UserError, match=r"--every must be positive, but got 0\."):
        watch(folder, seen.append, every_s=0.0)


def test_the_schema_in_configs_is_that_of_the_code_and_configs_keep_it() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    text = json_schema()
    assert (ROOT / "configs/schema.json").read_text() == text, "hwsearch schema --out configs/schema.json"
    check = jsonschema.Draft202012Validator(json.loads(text))
    files = [p for p in sorted((ROOT / "configs").glob("*.yaml")) if "supernet" in yaml.safe_load(p.read_text())]
    assert {"quickstart.yaml", "smoke.yaml"} <= {p.name for p in files}
    for raw in [*(yaml.safe_load(p.read_text()) for p in files), costs_only(), digits()]:
        assert not list(check.iter_errors(raw))
    for bad in ({"trialz": 3}, {"trials": 0}):
        raw = {**costs_only(), "search": bad}
        assert list(check.iter_errors(raw))
        with pytest.raises(ValueError, match="search"):
            RunConfig.model_validate(raw)

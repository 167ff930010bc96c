"""The Python interface."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hwsearch
from hwsearch.api import _configuration
from hwsearch.errors import ConfigError, MissingExtraError, UserError
from tests.hwsearch.runs import costs_only, write

ROOT = Path(__file__).resolve().parents[2]


def test_a_device_without_a_name_is_named_in_the_objectives() -> None:
    raw = _configuration("mlp", ["accuracy", "latency_ms <= 5", "macs"], "onnxruntime")
    assert raw["objectives"] == ["accuracy", "latency_ms@device <= 5", "macs"]
    assert raw["devices"] == {"device": {"runtime": "onnxruntime"}}
    assert raw["supernet"] == {"family": "mlp"} and raw["name"] == "mlp"
    with pytest.raises(UserError, match="objectives must be given unless the space is a configuration, but got none"):
        _configuration("mlp", [], None)
    with pytest.raises(UserError, match=r"objectives must be a list such as .*, but got 'accuracy'"):
        _configuration("mlp", "accuracy", None)


def test_a_search_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write(tmp_path, costs_only(limits=[]))
    result = hwsearch.search(config, budget=20, run_dir=tmp_path / "run", settings={"search.options.population": 6})
    assert (tmp_path / "run/report.html").is_file()
    best = result.best("macs")
    assert best.validated["macs"] == min(m.validated["macs"] for m in result.front)
    assert result.best("macs", limit="stored_bytes:max=1e9").key == best.key
    with pytest.raises(UserError, match="the metric must be one of"):
        result.best("speed")
    assert best.key in result._repr_html_()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"a table of trials needs pandas.*hwsearch\[dataframe\]"):
        result.to_dataframe()


def test_a_table_of_trials(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    result = hwsearch.search(write(tmp_path, costs_only(limits=[])), budget=12, run_dir=tmp_path / "run")
    table: Any = result.to_dataframe()
    assert len(table) == 12 and set(table["state"]) == {"finished"}
    assert set(table[table["on_front"]]["key"]) == {m.key for m in result.front}


def test_mistakes_are_those_of_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mlpp"):
        hwsearch.search("mlpp", ["macs"], run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(AttributeError, match="has no attribute 'serch'"):
        hwsearch.serch  # noqa: B018  # type: ignore[attr-defined]


@pytest.mark.parametrize("example", sorted(p.name for p in (ROOT / "examples").glob("*.py")))
def test_examples_run(example: str, tmp_path: Path) -> None:
    program = [sys.executable, str(ROOT / "examples" / example), str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/front.csv").is_file()

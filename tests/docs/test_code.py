"""Every YAML block of the documentation is valid, and every Python block runs."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
import yaml

from hwsearch.build import load_raw
from hwsearch.build.registry import DEVICES
from hwsearch.commands.benchmark import load_comparison
from hwsearch.commands.query import device_spec
from hwsearch.commands.space_source import open_space
from hwsearch.config import RunConfig
from hwsearch.errors import ConfigError
from tests.docs.blocks import BLOCKS, Block
from tests.docs.names import names
from tests.docs.sandbox import Sandbox

YAML = [block for block in BLOCKS if block.language == "yaml"]
PYTHON = [block for block in BLOCKS if block.language == "python"]
NAMES: dict[str, dict[str, Any]] = {}
"""What the blocks of a page share."""


def completed(part: dict[str, Any]) -> dict[str, Any]:
    """Returns a whole configuration with a part of one in it; devices that metrics name and it lacks are simulated."""
    whole: dict[str, Any] = {
        "name": "page",
        "supernet": {"family": "mlp", "params": {"hidden": [[8, 16], [8, 16]]}},
        "data": {"name": "digits"},
        "training": {"epochs": 1},
        "objectives": ["accuracy", "macs"],
        **part,
    }
    if "supernet" in part:  # made for other data
        del whole["data"], whole["training"]
        whole["objectives"] = ["macs"]
    asked = re.findall(r"@([\w.-]+)", str([whole["objectives"], whole.get("limits")]))
    simulated = {name: {"runtime": "simulated"} for name in asked}
    whole["devices"] = {**simulated, **whole.get("devices", {})}
    if not asked and whole["devices"]:
        whole["objectives"] = [*whole["objectives"], *(f"latency_ms@{name}" for name in whole["devices"])]
    return {key: value for key, value in whole.items() if value}


def _valid(raw: dict[str, Any], block: Block) -> None:
    """Passes if the configuration is valid; skips if nothing is wrong but what this machine lacks."""
    try:
        load_raw(raw, source=block.name)
    except ConfigError as error:
        problems = str(error).splitlines()
        if not all(" needs " in problem for problem in problems if problem.strip() not in {"", f"{block.name}:"}):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("block", YAML, ids=lambda b: b.name)
def test_a_yaml_block_is_valid(block: Block, sandbox: Sandbox) -> None:
    raw = yaml.safe_load(block.text)
    kind = block.kind
    file = sandbox.folder / f"block-{kind}.yaml"
    with sandbox.inside():
        if kind == "config":
            assert set(raw) <= set(RunConfig.model_fields), block.name
            _valid(completed(raw), block)
        elif kind == "device":
            for name, body in raw.items():
                file.write_text(yaml.safe_dump({"name": name, **body}))
                assert device_spec(str(file), None).runtime in DEVICES
                _valid(completed({"devices": {name: body}}), block)
        elif kind == "task":
            file.write_text(block.text)
            assert load_comparison(file).task().space.n_genes
        else:
            assert kind == "genes", kind
            file.write_text(block.text)
            assert open_space(str(file)).space.genes


def _run(block: Block, sandbox: Sandbox) -> None:
    """Runs a block; names that it takes from its reader are those of `names.py`."""
    with sandbox.inside():
        text = block.text.replace("budget=60", "budget=12").replace("accuracy:min=0.95", "accuracy:min=0.05")
        exec(compile(text, block.name, "exec"), NAMES.setdefault(block.page, names(block.page)))


@pytest.mark.parametrize("block", [b for b in PYTHON if b.how == "run"], ids=lambda b: b.name)
def test_a_python_block_runs(block: Block, sandbox: Sandbox) -> None:
    _run(block, sandbox)


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in PYTHON if b.how == "slow"], ids=lambda b: b.name)
def test_a_slow_python_block_runs(block: Block, sandbox: Sandbox) -> None:
    _run(block, sandbox)


@pytest.mark.parametrize("block", [b for b in PYTHON if b.how == "not run"], ids=lambda b: b.name)
def test_a_python_block_that_is_not_run_can_be_imported(block: Block) -> None:
    """Its imports run, and the rest is Python."""
    tree = ast.parse(block.text)
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(tree, block.name, "exec"), {})

"""Holds the sources to one direction of imports: the table in CONTRIBUTING.md ("Which way imports point")."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
THIS_TABLE = "LEVELS in tests/test_imports.py"

# A module of hwsearch imports only from strictly lower levels or from its own folder. A folder is one entry.
LEVELS = {
    "__main__": 7,
    "cli": 6,
    "api": 6,
    "commands": 5,
    "serve": 5,
    "build": 4,
    "loop": 4,
    "warm": 4,
    "front": 4,
    "report": 4,
    "sinks": 4,
    "importers": 4,
    "service": 4,
    "study": 3,
    "distribution": 3,
    "tasks": 3,
    "database": 2,
    "engines": 2,
    "evaluation": 2,
    "own_model": 2,
    "training": 2,
    "tracked": 2,
    "net_scores": 2,
    "native": 2,
    "devices": 1,
    "export": 1,
    "data": 1,
    "pareto": 1,
    "config": 1,
    "checkpoints": 1,
    "construct": 1,
    "runfolder": 1,
    "journal": 1,
    "zero_cost": 1,
    "torch_program": 0,
    "graphs": 0,
    "results": 0,
    "objectives": 0,
    "errors": 0,
    "problems": 0,
}

# Which of our packages a package may import, besides itself.
PACKAGES = {
    "hwsearch": {"predictors", "search_spaces"},
    "predictors": {"search_spaces"},
    "search_spaces": set[str](),
}

# Libraries with one home: the only files (or folders, with a trailing slash) that import them.
DEVICES_AND_EXPORT = ("hwsearch/devices/", "hwsearch/export/")
HOMES = {
    "ray": ("hwsearch/distribution/", "hwsearch/serve.py"),
    "optuna": ("hwsearch/study/", "hwsearch/database.py", "hwsearch/engines/optuna_engine.py"),
    "sqlalchemy": ("hwsearch/database.py",),
    "pymoo": ("hwsearch/engines/",),
    "onnxruntime": DEVICES_AND_EXPORT,
    "openvino": DEVICES_AND_EXPORT,
    "nncf": DEVICES_AND_EXPORT,
    "ai_edge_litert": (*DEVICES_AND_EXPORT, "hwsearch/graphs/"),
    "litert_torch": DEVICES_AND_EXPORT,
    "tensorrt": DEVICES_AND_EXPORT,
    "executorch": DEVICES_AND_EXPORT,
    "coremltools": DEVICES_AND_EXPORT,
    "tvm": DEVICES_AND_EXPORT,
}

# `hwsearch --help` must answer at once, so the command line imports none of these before a command needs it.
HEAVY = ("torch", "ray", "optuna", "sklearn", "onnxruntime", "scipy", "matplotlib", "lightgbm", "openvino")


class Import(NamedTuple):
    """One imported name: dotted, absolute, and the line it stands on."""

    module: str
    line: int


def imports_of(source: str, *, path: str, modules: frozenset[str] = frozenset()) -> Iterator[Import]:
    """Yields every import in a source, also those inside functions and under TYPE_CHECKING.

    Args:
        source: Python source.
        path: Its path below the repository root, with forward slashes; resolves relative imports.
        modules: Dotted names of all our modules; tells `from package import module` from `from package import name`.

    Yields:
        The most specific module that is known to be meant.
    """
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(ast.parse(source, filename=path)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield Import(name if name in modules else base, node.lineno)
        elif isinstance(node, ast.Call) and _called(node) in {"importlib.import_module", "import_module", "__import__"}:
            target = node.args[0] if node.args else None
            if isinstance(target, ast.Constant) and isinstance(target.value, str):
                yield Import(target.value, node.lineno)


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""


def dotted(path: str) -> str:
    """Returns the module name of a source file: `hwsearch/devices/__init__.py` is `hwsearch.devices`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def entry(module: str) -> str:
    """Returns the row of the table that a module of hwsearch belongs to: `hwsearch.devices.timing` is `devices`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def violations(sources: dict[str, str]) -> list[str]:
    """Returns one line for every import, and every file, that breaks a rule; the empty list if none does.

    Args:
        sources: Path below the repository root -> source, for all files of the three packages.
    """
    modules = frozenset(dotted(path) for path in sources)
    found = []
    for path, source in sorted(sources.items()):
        package, row = path.split("/")[0], entry(dotted(path))
        if package == "hwsearch" and row and row not in LEVELS:
            found.append(f"{path}: hwsearch.{row} has no level; add it to {THIS_TABLE} and to CONTRIBUTING.md")
            continue
        for module, line in imports_of(source, path=path, modules=modules):
            problem = _problem(path, package, row, module)
            if problem:
                found.append(f"{path}:{line}: {problem}")
    return found


def _problem(path: str, package: str, row: str, module: str) -> str | None:
    top = module.split(".")[0]
    homes = HOMES.get(top)
    if homes and not any(path.startswith(home) if home.endswith("/") else path == home for home in homes):
        return f"{top} may be imported only in {', '.join(homes)}"
    if top not in PACKAGES:
        return None
    if top != package:
        return None if top in PACKAGES[package] else f"{package} must not import {top}, but imports {module}"
    if package != "hwsearch" or not row:
        return None  # hwsearch/__init__.py may re-export anything lazily; what it costs is tested below
    target = entry(module)
    if not target or target == row:
        return None  # the package itself (its version), or the own folder
    if target not in LEVELS:
        return f"imports {module}, which has no level in {THIS_TABLE}"
    if LEVELS[target] >= LEVELS[row]:
        below, above = f"hwsearch.{row} (level {LEVELS[row]})", f"{module} (level {LEVELS[target]})"
        return f"{below} must import from lower levels only, but imports {above}"
    return None


def read_sources(root: Path) -> dict[str, str]:
    """Returns path -> source of every Python file in the three packages below `root`."""
    return {
        file.relative_to(root).as_posix(): file.read_text(encoding="utf-8")
        for package in PACKAGES
        for file in sorted((root / package).rglob("*.py"))
    }


def test_imports_point_one_way() -> None:
    sources = read_sources(ROOT)
    assert {path.split("/")[0] for path in sources} == set(PACKAGES)
    found = violations(sources)
    assert not found, "\n" + "\n".join(found)


def test_no_module_is_called_utils() -> None:
    assert not [path for path in read_sources(ROOT) if Path(path).stem in {"utils", "util", "helpers", "misc"}]


@pytest.mark.parametrize("module", ["hwsearch", "hwsearch.cli"])
def test_command_line_imports_nothing_heavy(module: str) -> None:
    program = f"import {module}, json, sys; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == []


# ---- the checker itself: each rule is broken once ---------------------------------------------------------------

BAD = [
    ("hwsearch/pareto.py", "import hwsearch.loop", "level 1) must import from lower levels only"),
    ("hwsearch/pareto.py", "from hwsearch import loop", "must import from lower levels only"),
    ("hwsearch/pareto.py", "from . import loop", "must import from lower levels only"),
    ("hwsearch/pareto.py", "def f():\n    from hwsearch.loop import run", ":2: hwsearch.pareto"),
    ("hwsearch/pareto.py", "if TYPE_CHECKING:\n    from .loop import run", ":2: hwsearch.pareto"),
    ("hwsearch/pareto.py", "import importlib\nimportlib.import_module('hwsearch.loop')", ":2: hwsearch.pareto"),
    ("hwsearch/pareto.py", "from hwsearch.config import RunConfig", "lower levels only, but imports hwsearch.config"),
    ("hwsearch/devices/timing.py", "from ..loop import run", "hwsearch.devices (level 1)"),
    ("hwsearch/devices/__init__.py", "from ..loop import run", "hwsearch.devices (level 1)"),
    ("hwsearch/novelty.py", "", "hwsearch.novelty has no level; add it to LEVELS in tests/test_imports.py"),
    ("hwsearch/novelty/deep.py", "", "hwsearch.novelty has no level"),
    ("hwsearch/loop.py", "import hwsearch.novelty", "imports hwsearch.novelty, which has no level"),
    ("search_spaces/genes.py", "import predictors", "search_spaces must not import predictors"),
    ("search_spaces/genes.py", "from hwsearch.errors import E", "search_spaces must not import hwsearch"),
    ("predictors/ridge.py", "from hwsearch.errors import E", "predictors must not import hwsearch"),
    ("hwsearch/loop.py", "import ray.util", "ray may be imported only in hwsearch/distribution/, hwsearch/serve.py"),
    ("predictors/ridge.py", "import ray", "ray may be imported only in"),
    ("hwsearch/serve_more.py", "import ray", "has no level"),
    ("hwsearch/engines/nsga2.py", "from optuna import create_study", "optuna may be imported only in"),
    ("hwsearch/evaluation/accuracy.py", "import onnxruntime as ort", "onnxruntime may be imported only in"),
    ("hwsearch/__init__.py", "import ray", "ray may be imported only in"),
]

GOOD = [
    ("hwsearch/__init__.py", "def __getattr__(name):\n    from hwsearch.loop import run\n    return run"),
    ("hwsearch/__main__.py", "from hwsearch.cli import main"),
    ("hwsearch/cli.py", "from hwsearch import __version__, commands"),
    ("hwsearch/loop.py", "from hwsearch.study import Study\nimport search_spaces.genes\nimport predictors"),
    ("hwsearch/distribution/ray_executor.py", "import ray\nfrom .workers import W\nfrom hwsearch.errors import E"),
    ("hwsearch/serve.py", "from ray import serve"),
    ("hwsearch/engines/optuna_engine.py", "import optuna"),
    ("hwsearch/devices/onnxruntime.py", "import onnxruntime\nfrom hwsearch.devices.timing import time_all"),
    ("hwsearch/export/__init__.py", "from hwsearch.export.onnx import OnnxExporter"),
    ("predictors/ridge.py", "from search_spaces.space import SearchSpace\nimport numpy, torch"),
    ("search_spaces/space.py", "from search_spaces.genes import Gene\nfrom .genes import Choice\nimport raylib"),
]


@pytest.mark.parametrize(("path", "source", "message"), BAD)
def test_checker_finds(path: str, source: str, message: str) -> None:
    found = violations({"hwsearch/loop.py": "", "hwsearch/config.py": "", path: source})
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(("path", "source"), GOOD)
def test_checker_accepts(path: str, source: str) -> None:
    others = dict.fromkeys(["hwsearch/commands.py", "hwsearch/loop.py", "hwsearch/study/"], "")
    assert violations({**others, path: source}) == []


def test_table_is_the_one_contributors_read() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    missing = [row for row in LEVELS if f"`{row}`" not in text]
    assert not missing

"""Earlier runs and tables as hints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwsearch import build
from hwsearch.errors import ConfigError, UserError
from hwsearch.objectives import Objective
from hwsearch.results import Evaluation, Measurement
from hwsearch.runfolder import RunFolder
from hwsearch.study import Study, open_storage
from hwsearch.warm import load_sources
from tests.hwsearch.runs import costs_only, digits


def test_a_table(tmp_path: Path) -> None:
    plan = build.load_raw(costs_only(), source="c")
    rows = plan.space.sample(3, np.random.default_rng(0))
    columns = plan.space.columns(rows)
    names = [gene.name for gene in plan.space.genes]
    lines = [",".join([*names, "accuracy", "latency_ms@phone"])]
    for i in range(3):
        lines.append(",".join([*(str(columns[name][i]) for name in names), f"0.{i + 1}", "" if i == 1 else f"{i}.5"]))
    table = tmp_path / "earlier.csv"
    table.write_text("\n".join(lines) + "\n")
    objectives = (Objective("accuracy", direction="maximize"), Objective("latency_ms", "cpu"), Objective("macs"))
    (source,) = load_sources(plan.space, objectives, [table])
    assert (source.genotypes == rows).all()
    assert source.losses[:, 0].tolist() == pytest.approx([-0.1, -0.2, -0.3])
    assert source.losses[[0, 2], 1].tolist() == [0.5, 2.5]  # the other device stands in
    assert np.isnan(source.losses[1, 1])
    assert np.isnan(source.losses[:, 2]).all()
    with pytest.raises(UserError, match=r"must hold one of \['energy_mj@cpu'\], but has none"):
        load_sources(plan.space, [Objective("energy_mj", "cpu")], [table])
    table.write_text(lines[0] + "\n" + "9," + lines[1].partition(",")[2] + "\n")
    with pytest.raises(UserError, match=r"must be one of .*, but got '9'"):
        load_sources(plan.space, objectives, [table])
    table.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="must have a column for every gene, but has no"):
        load_sources(plan.space, objectives, [table])
    with pytest.raises(UserError, match="must name runs or CSV tables, but got"):
        load_sources(plan.space, objectives, [tmp_path / "nothing.csv"])


def test_a_run(tmp_path: Path) -> None:
    raw = digits()
    plan = build.load_raw(raw, source="c")
    folder = RunFolder(tmp_path / "earlier")
    folder.save_config(plan.config.to_dict())
    study = Study(
        plan.config.name,
        plan.space,
        objectives=plan.objectives,
        limits=plan.limits,
        devices=plan.measured,
        storage=open_storage(None, folder.journal),
    )
    rows = plan.space.sample(1, np.random.default_rng(0))
    (index,) = study.start(rows)
    study.record(index, Evaluation({"accuracy": 0.75, "stored_bytes": 1000.0, "macs": 5.0}, seconds=1.0))
    for device in plan.measured:
        study.record_measurement(index, device, {"latency_ms": Measurement(2.0, float("nan"), "ms")})
    (source,) = load_sources(plan.space, [Objective("accuracy", direction="maximize")], [folder.path])
    assert (source.genotypes == rows).all()
    assert source.losses.tolist() == [[-0.75]]


def test_only_engines_that_take_hints(tmp_path: Path) -> None:
    raw = costs_only()
    raw["search"] = {"engine": "nsga2", "warm_start": ["runs/earlier"]}
    with pytest.raises(ConfigError, match=r"search.warm_start must be used with the engine 'pareto', but got 'nsga2'"):
        build.load_raw(raw, source="c")
    raw["search"] = {"engine": "pareto", "warm_start": ["runs/earlier"]}
    assert build.load_raw(raw, source="c").config.search.warm_start == (Path("runs/earlier"),)

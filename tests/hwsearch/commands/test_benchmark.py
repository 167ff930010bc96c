"""`hwsearch benchmark-engines`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwsearch.commands.benchmark import compare, load_comparison, parse_noise, save_comparison
from hwsearch.errors import ConfigError, UserError

SYNTHETIC = """
name: small
synthetic: {n_stages: 1}
engines:
  nsga2: {}
  wide: {engine: nsga2, options: {population: 30}}
levels: [0.5]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "task.yaml"
    path.write_text(text)
    return path


def test_comparison_of_engines(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    result = compare(
        load_comparison(written(tmp_path, SYNTHETIC)),
        trials=30,
        seeds=2,
        batch=5,
        observe=lambda name, n: seen.append((name, n)),
    )
    assert seen == [("nsga2", 1), ("nsga2", 2), ("wide", 1), ("wide", 2)]
    assert [row["engine"] for row in result.tables["worst"]] == ["nsga2", "wide"]
    assert result.tables["worst"][0]["n_to_50%"] <= 30
    files = save_comparison(result, tmp_path / "out")
    assert {path.name for path in files} == {"worst.csv", "worst.png", "front.csv", "front.png", "summary.json"}
    assert len((tmp_path / "out" / "worst.csv").read_text().splitlines()) == 1 + 2 * 30
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["seeds"] == 2


def test_engines_by_name_and_paths_beside_the_file(tmp_path: Path) -> None:
    rows = "".join(f"{a},{b},{a * b},{a + b}\n" for a in range(1, 6) for b in range(1, 6))
    (tmp_path / "table.csv").write_text("a,b,good,cost\n" + rows)
    path = written(
        tmp_path,
        "name: t\ntabular: {file: table.csv, genes: [a, b], "
        "metrics: {good: maximize, cost: minimize}, exact: [cost]}\n",
    )
    result = compare(load_comparison(path), engines=["random", "exhaustive"], trials=25, seeds=1, noise={"good": 0.1})
    assert all(row["share_at_20"] <= 1.0 for row in result.tables["worst"])
    assert result.curves["worst"]["random"].shares[0, -1] == pytest.approx(1.0)


def test_mistakes_come_before_the_first_search(tmp_path: Path) -> None:
    path = written(tmp_path, SYNTHETIC)
    with pytest.raises(ConfigError, match=r"search.engine must be one of .* but got 'nsga'"):
        compare(load_comparison(path), engines=["nsga"])
    with pytest.raises(ConfigError, match=r"search.engine must be 'nsga2', but got 'nsga2:x'"):
        compare(load_comparison(path), engines=["nsga2:x"])
    with pytest.raises(UserError, match=r"--noise must name a metric of the task \(\['error', 'cost'\]\), but got 'x'"):
        compare(load_comparison(path), noise={"x": 1.0})
    with pytest.raises(UserError, match="--noise must be METRIC=DEVIATION, but got 'x'"):
        parse_noise(["x"])
    assert parse_noise(["error=0.5"]) == {"error": 0.5}
    with pytest.raises(UserError, match="a comparison must have one of tabular and synthetic"):
        load_comparison(written(tmp_path, "name: x")).task()
    with pytest.raises(UserError, match="references must be left out with synthetic"):
        load_comparison(written(tmp_path, "name: x\nsynthetic: {}\nreferences: {a: {error: 1, cost: 2}}")).task()
    with pytest.raises(ConfigError, match=r"synthetic.stages is not known"):
        load_comparison(written(tmp_path, "name: x\nsynthetic: {stages: 2}"))

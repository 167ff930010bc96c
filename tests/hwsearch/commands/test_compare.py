"""`hwsearch compare`: groups of runs, the effect of the engine over ten seeds, sparse against dense, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hwsearch import build
from hwsearch.commands.compare import compare, flat, grouped
from hwsearch.errors import RunFolderError, UserError
from hwsearch.report.comparison import Searched, comparison
from hwsearch.report.comparison_figure import basis
from hwsearch.results import Evaluation
from hwsearch.runfolder import RunFolder
from hwsearch.study import Study, open_storage
from tests.hwsearch.runs import costs_only

SCORED = costs_only(
    objectives=[{"metric": "score", "direction": "maximize"}, "stored_bytes"],
    limits=[],
    evaluation={"function": "statistics:fmean"},
    training={"epochs": 1},
)


def searched(folder: Path, raw: dict[str, Any], *, trials: int, batch: int = 5) -> Path:
    """Writes the record that a run leaves, with a made-up score: wide is good, zeros cost a little."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"format_version": 1, **raw}))
    plan = build.load_raw(raw, source="test")
    study = Study(
        plan.config.name,
        plan.space,
        objectives=plan.objectives,
        limits=plan.limits,
        storage=open_storage(None, RunFolder(folder).journal),
    )
    engine, supernet = plan.engine(), plan.supernet(meta=True)
    rng = np.random.default_rng(plan.config.seed)
    while len(study.trials) < trials:
        rows = engine.propose(study.history(), batch)
        costs = supernet.costs(rows)
        score = 1 - np.exp(-costs.parameters / 2000.0) - 0.05 * (1 - costs.nonzeros / costs.parameters) ** 2
        score += rng.normal(0, 0.01, len(score))
        for i, index in enumerate(study.start(rows)):
            study.record(index, Evaluation({**costs.metrics(i), "score": float(score[i])}, 0.1))
    return folder


def engine_runs(root: Path, *, seeds: int, trials: int) -> list[Path]:
    engines: dict[str, dict[str, Any]] = {"pareto": {}, "random": {"engine": "random"}}
    return [
        searched(
            root / f"{name}-{seed}",
            {**SCORED, "name": f"{name}-{seed}", "seed": seed, "search": {**engine, "trials": trials}},
            trials=trials,
        )
        for name, engine in engines.items()
        for seed in range(seeds)
    ]


@pytest.fixture(scope="module")
def ten_seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return engine_runs(tmp_path_factory.mktemp("runs"), seeds=10, trials=25)


def test_ten_seeds_state_the_effect_of_the_engine_with_its_uncertainty(ten_seeds: list[Path], tmp_path: Path) -> None:
    content = compare(ten_seeds, figure=tmp_path / "compare.html")
    assert [g["label"] for g in content["groups"]] == ["pareto", "random"]
    assert [g["hypervolume"]["n"] for g in content["groups"]] == [10, 10]
    assert content["against"] == "random" and content["trials"] == 25
    (found,) = content["effects"]
    # 1,296 architectures, one objective exact: the default engine wins nearly every pair of seeds. A12 of 0.85 leaves
    # room for two lost seeds of ten.
    assert found["a12"] > 0.85 and found["a12_low"] > 0.5 and found["p_value"] < 0.01
    assert found["difference_low"] < found["difference"] < found["difference_high"]
    assert 1 <= found["trials_to_match"] < 25
    told = content["sparse_against_dense"]
    assert [t["group"] for t in told] == ["pareto", "random"]
    assert "large-sparse against small-dense at equal non-zeros" in told[0]["sentence"]
    assert told[0]["n"] > 0 and told[0]["runs"] == 10
    said = content["sentences"][0]
    assert said.startswith("pareto has a larger hypervolume than random: it wins")
    assert "found against random of equal budget: 25 trials each" in said
    text = (tmp_path / "compare.html").read_text()
    assert said in text and "<svg" in text and "src=" not in text
    assert "reference point score" in basis(content)
    json.dumps(content, allow_nan=False, default=str)


def of(run: str, group: str, rows: list[tuple[float, float, float, bool]]) -> Searched:
    """Rows: loss of the quality, bytes, non-zeros, sparse."""
    table = np.array([r[:3] for r in rows])
    return Searched(run, group, table[:, :2], table[:, 2], np.array([r[3] for r in rows]))


def test_the_gain_of_zeros_by_hand() -> None:
    plan = build.load_raw(SCORED, source="test")
    runs = [
        # A sparse net of 100 non-zeros with score 0.9; the best dense one of at most 102 has 0.8. One below any dense.
        of("a", "one", [(-0.9, 50.0, 100.0, True), (-0.8, 90.0, 101.0, False), (-0.2, 5.0, 10.0, True)]),
        of("b", "two", [(-0.5, 95.0, 90.0, False), (-0.95, 300.0, 300.0, False), (-0.1, 99.0, 99.0, False)]),
    ]
    content = comparison(runs, plan.objectives, against="two", quality=0, random=False)
    (told,) = content["sparse_against_dense"]
    assert told["group"] == "one" and told["without"] == 1 and told["n"] == 1
    assert told["gain"]["median"] == pytest.approx(0.1)
    assert "100 % of 1 sparse nets" in told["sentence"] and "1 more have fewer non-zeros" in told["sentence"]
    assert content["ideal"] == pytest.approx({"score": 0.95, "stored_bytes": 5.0})
    assert content["reference"] == pytest.approx({"score": 0.95 - 1.01 * 0.85, "stored_bytes": 5.0 + 1.01 * 295.0})
    assert "one run says nothing about other seeds" in content["sentences"][0]


def test_groups_are_runs_with_the_same_settings_but_the_seed() -> None:
    a, b = costs_only(seed=1, name="x"), costs_only(seed=2, name="y")
    other = costs_only(search={"engine": "nsga2", "trials": 9, "options": {"population": 12}})
    settings = [flat(raw) for raw in (a, b, other)]
    labels, differing = grouped(settings, None)
    assert labels == ["search.options.population=8"] * 2 + ["search.options.population=12"]
    assert differing == ["search.options.population"]
    assert grouped(settings[:2], None) == (["all runs"] * 2, [])
    assert grouped(settings, "search.engine")[0] == ["nsga2"] * 3
    with pytest.raises(UserError, match=r"--group must be a setting of the runs, but got 'search.engin'"):
        grouped(settings, "search.engin")


def test_a_group_by_one_setting_says_what_else_differs(ten_seeds: list[Path]) -> None:
    some = [ten_seeds[0], ten_seeds[10]]
    content = compare(some, group="supernet.family")
    assert [g["label"] for g in content["groups"]] == ["supernet.family=mlp"]
    assert content["sentences"][-1] == "The runs also differ in search.engine: an effect may be theirs."


def test_runs_that_end_alike_count_as_one(tmp_path: Path) -> None:
    for name in "ab":
        searched(tmp_path / name, {**SCORED, "search": {"engine": "random", "trials": 5}}, trials=5)
    said = compare([tmp_path / "a", tmp_path / "b"])["sentences"]
    assert "The runs of 'all runs' end alike: their seeds change nothing, so they count as one run." in said


def test_bad_input_is_one_line(ten_seeds: list[Path], tmp_path: Path) -> None:
    a, b = ten_seeds[0], ten_seeds[10]
    for call, message in [
        (lambda: compare([a]), r"compare must be given at least two runs, but got 1\."),
        (lambda: compare([a, b, a]), r"compare must be given every run once, but got .*pareto-0 again\."),
        (lambda: compare([a, b], figure=Path("x.pdf")), r"--figure must end with one of .*, but got 'x.pdf'\."),
        (lambda: compare([a, b], trials=26), r"--trials must be 1 to 25, which is what .* has, but got 26\."),
        (lambda: compare([a, b], against="nobody"), r"--against must be one of the groups .*, but got 'nobody'"),
    ]:
        with pytest.raises(UserError, match=message):
            call()
    with pytest.raises(RunFolderError, match=r"a run folder must hold config.yaml"):
        compare([a, tmp_path])
    other = searched(tmp_path / "other", costs_only(), trials=5)
    with pytest.raises(UserError, match=r"compare must be given runs with the same objectives, but .* has \['score'"):
        compare([a, other])
    limited = {**SCORED, "limits": ["stored_bytes <= 1"]}
    nothing = searched(tmp_path / "nothing", limited, trials=5)
    with pytest.raises(UserError, match=r"every run must have a trial that keeps the limits, but .* among its first 5"):
        compare([a, nothing])


def test_one_group_has_only_a_spread_and_its_figure_has_the_form_of_its_name(
    ten_seeds: list[Path], tmp_path: Path
) -> None:
    content = compare(ten_seeds[10:12], trials=10, figure=tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")
    compare(ten_seeds[10:12], figure=tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert content["effects"] == [] and content["trials"] == 10
    assert not any("end alike" in text for text in content["sentences"])
    assert content["sentences"][0] == "All runs are one group: there is only their spread to see."

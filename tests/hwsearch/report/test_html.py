"""The HTML report: what it computes, that it is safe and self-contained, and that a browser can use it."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hwsearch.commands.report import report
from hwsearch.commands.run import run
from hwsearch.errors import UserError
from hwsearch.objectives import Objective
from hwsearch.pareto import Box
from hwsearch.report.html.content import Sources, content
from hwsearch.report.html.page import page
from hwsearch.report.html.series import band, checkpoints, effects, growth, random_searches
from hwsearch.results import Evaluation, Measurement
from hwsearch.study import Study, open_storage
from search_spaces.genes import Gene
from search_spaces.space import SearchSpace
from tests.hwsearch.runs import Silent, costs_only, write

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
ACCURACY = Objective("accuracy", direction="maximize", unit="share")
OBJECTIVES = (ACCURACY, Objective("latency_ms", "cpu", unit="ms"), Objective("latency_ms", "phone", unit="ms"))
SPACE = SearchSpace([Gene("width", (8, 16, 32)), Gene("depth", (1, 2, 3)), Gene("head.sparsity", ("dense", "half"))])


def study_of(tmp_path: Path, n: int) -> Study:
    """A study of n made-up trials on two devices; the third trial fails."""
    study = Study(
        "run",
        SPACE,
        objectives=OBJECTIVES,
        devices=("cpu", "phone"),
        storage=open_storage(None, tmp_path / "study.log"),
    )
    rng = np.random.default_rng(0)
    rows = np.unique(SPACE.sample(200, rng), axis=0)[:n]
    for index, row in zip(study.start(rows), rows, strict=True):
        error = "out of </script> memory" if index == 2 else None
        study.record(index, Evaluation({"accuracy": 0.5 + 0.1 * row[0] + 0.05 * row[1]}, 1.0, error=error))
        for device, factor in (("cpu", 1.0), ("phone", 3.0)) if error is None else ():
            ms = factor * (1.0 + row[0] + 0.2 * row[1])
            told = {"reference_ms": 2.2, "card_reference_ms": 2.0}
            study.record_measurement(index, device, {"latency_ms": Measurement(ms, 0.02 * ms, "ms", environment=told)})
    return study


def front_of(study: Study) -> dict[str, Any]:
    members = [
        {
            "key": t.key,
            "index": t.index,
            "architecture": SPACE.architecture(t.row).to_dict(),
            "metrics": t.metrics,
            "validated": t.metrics,
            "validated_stds": t.stds,
            "behind": False,
            "ties": ["a" * 12],
            "front_probability": 0.42,
            "passed": [],
            "error": None,
        }
        for t in study.front()
    ]
    keys = [m["key"] for m in members]
    return {"members": members, "fronts": {"cpu": keys, "phone": keys}}


def made(tmp_path: Path, n: int = 18) -> dict[str, Any]:
    study = study_of(tmp_path, n)
    held = {"value": [1.0, 2.0, 3.0], "mean": [1.1, 2.0, 2.9], "std": [0.1, 0.1, 0.1]}
    report = {"n": 3, "kendall": 1.0, "spearman": 1.0, "rmse": 0.1, "mape": 5.0, "coverage": 1.0, "level": 0.9}
    return content(
        study,
        Sources(
            run="runs/my run",
            front=front_of(study),
            environment={"versions": {"hwsearch": "0.1.0"}},
            config="name: run\n",
            predictors=[{"name": "accuracy", "unit": "", "model": "auto", "report": report, "held_out": held}],
            predicted=lambda rows: np.stack([-0.1 * rows[:, 0], 1.0 + rows[:, 0], 3.0 + rows[:, 1]], axis=1),
        ),
    )


def test_hypervolume_is_the_share_of_the_box() -> None:
    box = Box(np.zeros(2), np.ones(2))
    assert box.share(np.array([[0.0, 0.0]])) == pytest.approx(1.0)
    assert box.share(np.array([[0.5, 0.5]])) == pytest.approx(0.51**2 / 1.01**2)
    assert box.share(np.array([[-3.0, -3.0]])) == pytest.approx(1.0)
    assert box.share(np.zeros((0, 2))) == 0.0
    losses = np.array([[1.0, 0.5], [math.nan, 0.0], [0.5, 0.5], [0.9, 0.9]])
    curve = growth(losses, box, np.array([1, 2, 3, 4]))
    assert curve[0] == curve[1] < curve[2] == curve[3]
    low, middle, high = band([losses, losses[::-1]], box, np.array([1, 4]))
    assert (low <= middle).all() and (middle <= high).all() and low[1] == pytest.approx(high[1])
    assert checkpoints(3).tolist() == [1, 2, 3]
    assert checkpoints(10_000)[-1] == 10_000 and len(checkpoints(10_000)) <= 80
    searches = random_searches(np.arange(12.0).reshape(12, 1), 5, seed=1)
    assert all(len(np.unique(s)) == 5 for s in searches)


def test_effects_of_an_additive_metric_are_found() -> None:
    rows = np.array([[a, b, c] for a in range(3) for b in range(3) for c in range(2)] * 20, dtype=np.uint8)
    values = 10.0 * rows[:, 0] + 1.0 * rows[:, 1] + np.random.default_rng(0).normal(0, 0.01, len(rows))
    found = effects(SPACE, rows, values)
    assert found is not None
    assert list(found.shares)[:2] == ["width", "depth"] and found.r2 > 0.999
    by = {(e.gene, e.choice): e for e in found.effects}
    # Ridge with k = 1 shrinks by less than 1 % at 120 rows per choice.
    assert by["width", 32].mean == pytest.approx(10.0, rel=0.01) and by["width", 32].n == 120
    assert abs(by["head.sparsity", "half"].mean) < 0.05
    assert effects(SPACE, rows[:7], values[:7]) is None
    assert effects(SPACE, rows, np.ones(len(rows))) is None


def test_the_content_says_what_was_recorded(tmp_path: Path) -> None:
    shown = made(tmp_path)
    assert shown["devices"] == ["cpu", "phone"] and shown["n_failed"] == 1
    assert shown["failures"] == [["out of </script> memory", 1]]
    assert shown["stability"]["cpu"]["drift"][0] == pytest.approx(10.0)
    assert shown["stability"]["cpu"]["spread"][0] == pytest.approx(2.0)
    assert shown["hypervolume"]["kind"] == "predicted" and len(shown["hypervolume"]["alike"]) == 18
    assert shown["effects"]["accuracy"]["r2"] == pytest.approx(1.0, abs=0.05)
    json.dumps(shown, allow_nan=False)


def test_a_page_is_self_contained_and_no_name_can_leave_its_data(tmp_path: Path) -> None:
    text = page(made(tmp_path), command="hwsearch run x", written="today").decode()
    assert text.count("</script>") == 2
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)
    assert "connect-src" not in text and "default-src 'none'" in text
    assert len(text) < 5_000_000
    assert "cannot be told from aaaaaaaaaaaa; on the true front with a probability of 42%" in text


def test_a_run_without_front_has_a_report(tmp_path: Path) -> None:
    study = Study("run", SPACE, objectives=OBJECTIVES, storage=open_storage(None, tmp_path / "study.log"))
    shown = content(study, Sources(run="r", front={}, environment={}, config=""))
    assert shown["hypervolume"] is None and shown["effects"] == {}
    assert b"no validated front yet" in page(shown, command="c", written="today")


PROBE = """<script>
const out = {fronts: document.querySelectorAll('#front figure').length};
const mark = document.querySelector('.member'), plot = mark.closest('.plot');
const spot = mark.querySelector('path').getBoundingClientRect();
const at = {clientX: spot.x + spot.width / 2, clientY: spot.y + spot.height / 2, bubbles: true};
mark.dispatchEvent(new PointerEvent('pointermove', at));
out.tip = plot.querySelector('.tip').textContent;
mark.dispatchEvent(new MouseEvent('click', at));
out.key = mark.dataset.key; out.card = document.getElementById('card').textContent;
out.command = document.getElementById('command').textContent;
const marks = [...plot.querySelectorAll('.member')];
marks[0].focus();
marks[0].dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));
out.moved = document.activeElement === marks[1];
marks[1].dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}));
out.chosen = document.getElementById('card').textContent.includes(marks[1].dataset.key);
const select = plot.parentElement.querySelector('select');
select.value = 'accuracy'; select.dispatchEvent(new Event('change'));
document.getElementById('theme').click();
out.unnamed = [...document.querySelectorAll('button, select, [role=button], [role=img], [role=region]')].filter(
  n => !(n.getAttribute('aria-label') || n.textContent.trim())).length;
out.requests = performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length;
const told = document.createElement('div');
told.dataset.told = JSON.stringify(out); document.body.append(told);
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_a_browser_shows_it_and_a_click_opens_the_card(tmp_path: Path) -> None:
    text = page(made(tmp_path), command="hwsearch run x", written="today").decode()
    file = tmp_path / "report.html"
    file.write_text(text.replace("</body>", PROBE))
    assert BROWSER is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=1440,900"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"]
    done = subprocess.run([BROWSER, *options, file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'data-told="([^"]*)"', done.stdout)
    assert found is not None
    told = json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    assert told["fronts"] == 2 and told["unnamed"] == 0 and told["requests"] == 0
    assert told["key"] in told["tip"] and f"Net {told['key']}" in told["card"] and "±" in told["card"]
    assert told["command"] == f"hwsearch export 'runs/my run:{told['key']}' --format onnx"
    assert told["moved"] and told["chosen"]


def test_a_report_of_a_run_holds_its_layers_and_a_baseline(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a run folder must hold config.yaml"):
        report(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"format_version": 1, **costs_only()}))
    with pytest.raises(UserError, match="must hold recorded trials, but the run has not come that far"):
        report(tmp_path)
    folder = tmp_path / "run"
    run(write(tmp_path, costs_only()), run_dir=folder, observer=Silent())
    assert (folder / "report.html").is_file()  # the run wrote it
    answer = report(folder, out=tmp_path / "again.html", figures_to=tmp_path / "figures", baselines=[folder])
    assert {Path(name).suffix for name in answer["files"]} == {".html", ".png", ".svg"}
    found = re.search(r'id="data">(.*?)</script>', (tmp_path / "again.html").read_text())
    assert found is not None
    shown = json.loads(found[1])
    assert shown["hypervolume"]["kind"] == "runs"
    # A run against itself: the band is the run, up to the six digits.
    assert shown["hypervolume"]["random"]["middle"] == shown["hypervolume"]["found"]
    member = shown["members"][0]
    assert sum(row[7] for row in member["layers"]) == member["values"]["macs"]
    other = tmp_path / "other"
    run(write(tmp_path, costs_only(objectives=["macs", "nonzeros"])), run_dir=other, observer=Silent())
    with pytest.raises(UserError, match=r"--baseline must be a run with the objectives \['macs', 'stored_bytes'\]"):
        report(folder, baselines=[other])

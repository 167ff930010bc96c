"""How long the report of a run of 10,000 trials takes to write and to open, and how large it is.

python benchmarks/report/ten_thousand.py [N] [--run DIR] [--large-front]
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from hwsearch import build
from hwsearch.commands.report import collect, open_study, report
from hwsearch.report.html.page import page
from hwsearch.results import Evaluation, Measurement
from hwsearch.runfolder import RunFolder
from hwsearch.study import Study, open_storage

CONFIG = {
    "name": "many",
    "supernet": {
        "family": "mlp",
        "params": {"input_shape": [1, 8, 8], "n_classes": 10, "hidden": [list(range(8, 72, 8))] * 4},
    },
    "sparsity": {"per": "layer", "choices": ["dense", "unstructured-0.5", "unstructured-0.8"]},
    "objectives": ["macs", "stored_bytes", "latency_ms@one"],
    "devices": {"one": {"runtime": "simulated"}},
    "executor": {"kind": "serial"},
}
PROBE = """<script>
const told = {ready: performance.now()};
const timed = f => { const s = performance.now(); f(); return performance.now() - s; };
told.redraw = timed(() => redraws.forEach(f => f()));
told.front = timed(redraws[0]);
const plot = document.querySelector('#front .plot'), box = plot.getBoundingClientRect(), moves = 40;
told.move = timed(() => { for (let i = 0; i < moves; i++)
  plot.onpointermove(new PointerEvent('pointermove', {clientX: box.x + 80 + 12 * i, clientY: box.y + 90})); }) / moves;
told.nodes = document.querySelectorAll('*').length;
const node = document.createElement('div'); node.dataset.told = JSON.stringify(told); document.body.append(node);
</script></body>"""


LARGE_FRONT = [{"metric": "nonzeros", "direction": "maximize"}, "stored_bytes", "latency_ms@one"]


def made(folder: RunFolder, n: int, *, large_front: bool) -> None:
    """Records made-up measurements of random architectures."""
    config = {**CONFIG, "objectives": LARGE_FRONT} if large_front else CONFIG
    plan = build.load_raw(config, source="this file")
    rng = np.random.default_rng(0)
    rows = np.unique(plan.space.sample(2 * n, rng), axis=0)
    rows = rows[rng.permutation(len(rows))[:n]]
    study = Study(
        "many",
        plan.space,
        objectives=plan.objectives,
        devices=plan.measured,
        storage=open_storage(None, folder.journal),
    )
    costs = plan.supernet(meta=True).costs(rows)
    for i in study.start(rows):
        study.record(i, Evaluation({k: float(v) for k, v in costs.metrics(i).items()}, 1.0))
        ms = (0.1 + 1e-5 * costs.macs[i]) * rng.lognormal(0, 0.02)
        study.record_measurement(i, "one", {"latency_ms": Measurement(ms, 0.02 * ms, "ms")})
    folder.config.write_text(yaml.safe_dump({"format_version": 1, **config}))


def with_front(folder: RunFolder, study: Study) -> None:
    """Writes a front.json: its nets measured again as they were measured."""
    members = [
        {
            "key": t.key,
            "index": t.index,
            "architecture": study.space.architecture(t.row).to_dict(),
            "metrics": t.metrics,
            "validated": t.metrics,
            "validated_stds": t.stds,
            "behind": False,
            "passed": [],
            "error": None,
        }
        for t in study.front()
    ]
    folder.front_json.write_text(json.dumps({"members": members, "fronts": {"one": [m["key"] for m in members]}}))


def in_browser(file: Path) -> dict[str, float] | None:
    """Returns milliseconds: until all is drawn, to draw all again, the front again, one movement of the pointer."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        return None
    with tempfile.TemporaryDirectory() as name:
        probed = Path(name) / "probed.html"
        probed.write_text(file.read_text().replace("</body>", PROBE))
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1440,900", "--dump-dom"]
        done = subprocess.run(
            [browser, *options, f"--user-data-dir={name}/profile", probed.as_uri()],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
    found = re.search(r'data-told="([^"]*)"', done.stdout)
    assert found is not None
    told: dict[str, float] = json.loads(found[1].replace("&quot;", '"'))
    return told


def main() -> None:
    """Prints the times; with --run, the record is kept there and used again."""
    parser = argparse.ArgumentParser()
    parser.add_argument("n", nargs="?", type=int, default=10_000)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--large-front", action="store_true", help="objectives that hundreds of nets are best in")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(given.run or Path(name))
        if not folder.config.is_file():
            folder.path.mkdir(parents=True, exist_ok=True)
            made(folder, given.n, large_front=given.large_front)
        plan = build.load_raw(folder.load_config(), source="run")
        with_front(folder, open_study(plan, folder))
        started, cpu = time.perf_counter(), time.process_time()
        answer = report(folder.path)
        whole, whole_cpu = time.perf_counter() - started, time.process_time() - cpu
        started = time.perf_counter()
        read = open_study(plan, folder)
        reading = time.perf_counter() - started
        started = time.perf_counter()
        page(collect(plan, read, folder), command="", written="")
        drawn = time.perf_counter() - started
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "hwsearch", "report", str(folder.path)], check=True, capture_output=True)
        command = time.perf_counter() - started
        file = Path(answer["report"])
        print(f"{answer['n_trials']} trials, front of {len(read.front())}: {command:.1f} s as a command; in a process")
        print(f"that has imported: {whole:.1f} s from the disk ({whole_cpu:.1f} s of CPU), of these {reading:.1f} s")
        print(f"reading and {drawn:.1f} s drawing; {file.stat().st_size / 1e6:.2f} MB")
        for told in (in_browser(file), in_browser(file)):
            print("in the browser, ms:", told)
        print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()

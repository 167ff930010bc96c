"""A folder in which the commands of the documentation run: the configurations, one tiny run, files that they name."""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import yaml

from hwsearch.cli import main
from search_spaces.ofa_networks import OfaMobilenetV3
from tests.docs.blocks import BLOCKS, ROOT
from tests.hwsearch.runs import digits

SMALL: dict[str, tuple[str, ...]] = {
    "run": ("--set", "search.trials=12"),
    "train": ("--set", "training.epochs=1"),
    "finetune": ("--epochs", "1"),
    "verify": ("--nets", "1", "--seeds", "1", "--epochs", "1"),
    "fit": ("--no-curve",),
    "measure-for-predictor": ("--budget", "3", "--model", "ridge"),
    "benchmark-engines": ("--seeds", "2", "--trials", "5"),
}
"""What is added to a command so that it ends soon; of an option that is given twice, the last counts."""


class Sandbox:
    """The folder, and how commands run in it.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("configs", "examples"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        # The same names of the run, its device and metrics as configs/quickstart.yaml, which needs minutes.
        tiny = digits(name="quickstart", devices={"cpu": {"runtime": "simulated"}}, training={"epochs": 2})
        (folder / "configs" / "quickstart.yaml").write_text(yaml.safe_dump(tiny, sort_keys=False))
        assert self.hwsearch("run", "configs/quickstart.yaml") == 0
        net = folder / "runs/quickstart/models" / self.key("quickstart")
        for name in ("model.onnx", "model.py", "model.safetensors"):
            shutil.copy(net / name, folder / name)
        shutil.copytree(net, folder / "net" / net.name)
        shutil.copytree(folder / "runs/quickstart", folder / "runs/random")
        for name in ("board.yaml", "phone.yaml"):
            shutil.copy(folder / "configs/devices/onnxruntime.yaml", folder / name)
        (task,) = (block.text for block in BLOCKS if block.kind == "task")
        (folder / "task.yaml").write_text(task)
        self._tables()
        other = ("--space", "ofa_mobilenet_v3", "--target", "latency_ms", "--device", "pixel6")
        self.hwsearch("fit", "pixel6.csv", *other, "--out", "pixel6.safetensors")

    def key(self, run: str) -> str:
        """Returns the key of a net of a run's front."""
        members = json.loads((self.folder / "runs" / run / "front.json").read_text())["members"]
        return str(members[0]["key"])

    def _tables(self) -> None:
        """Writes measurements of 14 networks on two made-up phones, and a table of results for engines."""
        space = OfaMobilenetV3(width_mult=1.0).space
        rows = space.sample(14, np.random.default_rng(0))
        for name, factor in (("pixel", 1.0), ("pixel6", 2.0), ("pixel9", 1.5), ("cpu", 0.5)):
            with (self.folder / f"{name}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow([*(gene.name for gene in space.genes), "latency_ms"])
                for row in rows:
                    values = space.architecture(row).to_dict()
                    cells = [values.get(gene.name, "") for gene in space.genes]
                    writer.writerow([*cells, factor * (10.0 + float(row.sum()))])
        with (self.folder / "results.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["depth", "kernel", "accuracy", "macs"])
            writer.writerows((d, k, 0.5 + 0.1 * d - 1 / k, d * k * 1e6) for d in range(1, 7) for k in (3, 5, 7))

    def adapted(self, words: Sequence[str]) -> list[str]:
        """Returns the arguments of a command with the run's own key, limits that a tiny run keeps, a small budget."""
        run = next((word.split("/")[1].split(":")[0] for word in words if word.startswith("runs/")), "quickstart")
        told = [re.sub(r"\bKEY\b", lambda _: self.key(run), word) for word in words]
        told = [re.sub(r"accuracy:min=[\d.]+", "accuracy:min=0.05", word) for word in told]
        single = told[0] == "fit" and "--from-devices" not in told
        return [*told, *SMALL.get(told[0], ()), *(("--model", "ridge") if single else ())]

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The working directory is the folder, and modules in it can be imported."""
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            with mock.patch.object(sys, "path", [str(self.folder), *sys.path]):
                yield
        finally:
            os.chdir(before)

    def hwsearch(self, *arguments: str) -> int:
        """Calls the command line in this process; returns the exit code."""
        with self.inside(), mock.patch.object(sys, "argv", ["hwsearch", *self.adapted(arguments)]):
            try:
                main()
            except SystemExit as stop:
                return int(stop.code or 0)
        return 0

    def python(self, *arguments: str) -> None:
        """Runs a script in this process."""
        with self.inside(), mock.patch.object(sys, "argv", list(arguments)):
            runpy.run_path(arguments[0], run_name="__main__")

"""The tasks that engines are compared on. Their data are other groups' measurements (`--data DIR`) or synthetic."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwsearch.tasks.synthetic import synthetic_task
from hwsearch.tasks.tabular import Tabular, tabular_task
from hwsearch.tasks.task import Task, searched_front
from predictors.ridge import Ridge
from search_spaces.genes import Condition, Gene
from search_spaces.space import Population, SearchSpace

FloatArray = NDArray[np.float64]

MACRO = {"mean_acc": "maximize", "flops": "minimize", "params": "minimize"}
MACRO_REFERENCES = {
    "A": {"mean_acc": 45.36333, "flops": 105_660_928.0, "params": 2_932_586.0},
    "B": {"mean_acc": 90.0, "flops": 105_660_928.0, "params": 2_932_586.0},
}


def macro(data: Path, *, n_objectives: int = 2) -> Task:
    """Returns NAS-Bench-Macro: 6,561 nets, every one of them trained; costs exact."""
    metrics = dict(list(MACRO.items())[:n_objectives])
    table = Tabular.model_validate(
        {
            "file": data / "nas_bench_macro_cifar10.csv.gz",
            "genes": [f"l{i}" for i in range(8)],
            "metrics": metrics,
            "exact": list(metrics)[1:],
        }
    )
    references = {name: {m: point[m] for m in metrics} for name, point in MACRO_REFERENCES.items()}
    return tabular_task(f"macro{n_objectives}", table, references)


class Columns:
    """Losses from one model per column, rows translated first. Picklable."""

    def __init__(self, models: list[Ridge], signs: list[float], extra: int) -> None:
        self._models, self._signs, self._extra = models, signs, extra

    def __call__(self, population: Population) -> FloatArray:
        """Returns losses (n, m); the second model has one more gene, which is at a fixed choice."""
        fixed = np.full((len(population), 1), self._extra, dtype=np.uint8)
        rows = [population, np.concatenate([population, fixed], axis=1)]
        return np.stack(
            [s * m.predict(r).mean for s, m, r in zip(self._signs, self._models, rows, strict=True)], axis=1
        )


def ofa(data: Path) -> Task:
    """Returns OFA-MobileNetV3 (45 genes): accuracy and one GPU's latency as regressions see them, neither exact.

    Regressions with counts and places, fitted on all published rows, stand in for the network and the device.
    """
    genes = [Gene(f"stage{s}.depth", (2, 3, 4)) for s in range(5)]
    for part, choices in (("kernel", (3, 5, 7)), ("expand", (3, 4, 6))):
        for i in range(20):
            deep = (2, 3, 4)[max(0, i % 4 - 1) :]
            when = (Condition(f"stage{i // 4}.depth", deep),) if i % 4 >= 2 else ()
            genes.append(Gene(f"stage{i // 4}.block{i % 4}.{part}", choices, active_when=when))
    names = [f"d{s}" for s in range(5)] + [f"ks{i}" for i in range(20)] + [f"e{i}" for i in range(20)]
    sides = tuple(range(128, 225, 4))
    space, sized = SearchSpace(genes), SearchSpace([*genes, Gene("side", sides)])
    models = []
    for file, of, extra, target, kind in (
        ("dynas_ofa_mbv3_w10_imagenet.csv.gz", space, [], "top1", "raw"),
        ("help_ofa_latency_ms.csv.gz", sized, ["r"], "2080ti_1", "log"),
    ):
        rows = _rows(data / file)
        known = [r for r in rows if r[target] not in ("", "nan")]
        population = of.canonical(_indices(of, [[int(float(r[n])) for n in names + extra] for r in known]))
        model = Ridge(of, sets=("one_hot", "counts"), target=kind)  # type: ignore[arg-type]
        models.append(model.fit(population, np.array([float(r[target]) for r in known])))
    losses = Columns(models, [-1.0, 1.0], sides.index(224))
    return _searched("ofa", space, ("top1", "latency_ms"), losses, (False, False))


OPERATIONS = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")


class FbnetLosses:
    """Latency by regression, and a proxy of accuracy that saturates and dislikes runs of skips. Picklable."""

    def __init__(self, latency: Ridge) -> None:
        self._latency = latency
        expand = np.array([0 if o == "skip" else int(o[4]) for o in OPERATIONS], dtype=float)
        wide = np.array([o.startswith("k5") for o in OPERATIONS], dtype=float)
        grouped = np.array([o.endswith("g2") for o in OPERATIONS], dtype=float)
        self._value = np.sqrt(expand) * (1 + 0.12 * wide - 0.2 * grouped)
        self._weight = 0.6 + 0.8 * np.sin(np.linspace(0.3, 2.6, 22))

    def __call__(self, population: Population) -> FloatArray:
        """Returns error in percent and latency (n, 2)."""
        capacity = (self._value[population] * self._weight).sum(axis=1) / self._weight.sum() / self._value.max()
        skip = population == OPERATIONS.index("skip")
        runs = (skip[:, 1:] & skip[:, :-1]).sum(axis=1)
        error = 24.0 + 22.0 * np.exp(-3.0 * capacity) + 0.15 * runs
        return np.stack([error, self._latency.predict(population).mean], axis=1)


def fbnet(data: Path) -> Task:
    """Returns FBNet (22 genes, 9 choices): a proxy of accuracy and one phone's latency, neither exact."""
    space = SearchSpace([Gene(f"layer{i}.op", OPERATIONS) for i in range(22)])
    rows = _rows(data / "help_fbnet_latency_ms.csv.gz")
    population = np.array([[int(r[f"op{i}"]) for i in range(22)] for r in rows], dtype=np.uint8)
    latency = Ridge(space).fit(population, np.array([float(r["pixel2"]) for r in rows]))
    return _searched("fbnet", space, ("error", "latency_ms"), FbnetLosses(latency), (False, False))


def synthetic() -> Task:
    """Returns the synthetic elastic network, cost exact, front known."""
    return synthetic_task()


def _searched(name: str, space: SearchSpace, metrics: tuple[str, ...], losses: object, exact: tuple[bool, ...]) -> Task:
    """Returns a task whose front is that of a long evolution; `wide` reference: the worst of 2,000 random nets."""
    front = searched_front(space, losses, n_candidates=150_000)  # type: ignore[arg-type]
    sampled = losses(space.sample(2000, np.random.default_rng(0)))  # type: ignore[operator]
    both = np.concatenate([sampled, front])
    references = {
        "wide": both.max(axis=0) + 0.01 * np.ptp(both, axis=0),
        "close": np.quantile(sampled, 0.5, axis=0),
    }
    return Task(name, space, metrics, losses, exact, front, references)  # type: ignore[arg-type]


def _rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt") as file:
        return list(csv.DictReader(file))


def _indices(space: SearchSpace, values: list[list[int]]) -> Population:
    """Returns choice indices of values; where a hidden gene has a value that is no choice, the first."""
    table = [{choice: i for i, choice in enumerate(gene.choices)} for gene in space.genes]
    return np.array([[of.get(v, 0) for of, v in zip(table, row, strict=True)] for row in values], dtype=np.uint8)


def load(name: str, data: Path) -> Task:
    """Returns a task by name."""
    makers = {
        "macro": lambda: macro(data),
        "macro3": lambda: macro(data, n_objectives=3),
        "ofa": lambda: ofa(data),
        "fbnet": lambda: fbnet(data),
        "synthetic": synthetic,
    }
    return makers[name]()

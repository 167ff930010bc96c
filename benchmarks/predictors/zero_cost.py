"""Do zero-cost scores help to predict the accuracy of subnets? Digits, the super-network of configs/quickstart.yaml.

python -m benchmarks.predictors.zero_cost label --out labels.npz [--config FILE] [--nets 140] [--epochs 15]
python -m benchmarks.predictors.zero_cost compare --labels labels.npz [--rows 20 50] [--seeds 8] [--model auto]
python -m benchmarks.predictors.zero_cost time [--nets 12]

`label` trains the super-network and stores the hold-out accuracy of subnets drawn uniformly, BatchNorm recalibrated.
`compare` fits a predictor to some rows, with and without scores, and tests on the rest. `time` is CPU time of one core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau

from benchmarks.measurement.nets import distinct, one_thread
from hwsearch import build
from hwsearch.build import registry
from hwsearch.evaluation import calibration_batches, evaluate
from hwsearch.net_scores import NetScores
from hwsearch.training.supernet_training import train
from hwsearch.zero_cost import SCORES, scores
from search_spaces.ofa_networks import OfaMobilenetV3
from search_spaces.supernet import Supernet


def label(config: Path, out: Path, *, nets: int, epochs: int, calibration: int) -> None:
    """Trains, evaluates, stores rows (n, g) and accuracies (n,)."""
    plan = build.load(config, (f"training.epochs={epochs}",))
    data = plan.dataset
    assert data is not None
    supernet = plan.supernet()
    train(supernet, data, plan.training())
    batches = calibration_batches(data.train, n=calibration)
    rows = distinct(supernet, nets, seed=11)
    found = [evaluate(supernet.extract(a), data.holdout, calibration=batches) for a in plan.space.architectures(rows)]
    accuracy = np.array([score.accuracy for score in found])
    loss = np.array([score.loss for score in found])
    np.savez(out, rows=rows, accuracy=accuracy, loss=loss, n_examples=found[0].n, config=str(config))
    print(f"{nets} subnets, accuracy {accuracy.min():.3f} to {accuracy.max():.3f}, {found[0].n} examples")


def compare(labels: Path, *, rows: list[int], seeds: int, model: str) -> None:
    """Prints Kendall's tau of predictors to the labels of rows that they were not fitted on."""
    stored = np.load(labels)
    plan = build.load(Path(str(stored["config"])))
    population, values = stored["rows"], stored["accuracy"]
    supernet = plan.supernet(meta=True)
    of_nets = NetScores(supernet)
    x = of_nets(population)
    macs = supernet.costs(population).macs
    print("tau of the number alone: MACs", round(float(kendalltau(macs, values).statistic), 3))
    for name, column in zip(of_nets.columns, x.T, strict=True):
        to_values, to_macs = (kendalltau(column, other).statistic for other in (values, macs))
        print(f"  {name:14s} {to_values:+.3f}, to MACs {to_macs:+.3f}")
    noise = np.sqrt(values * (1 - values) / int(stored["n_examples"]))
    print(f"deviation of the labels {values.std():.4f}, mean standard error {noise.mean():.4f}", flush=True)
    for n in rows:
        found = []
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(len(values))
            seen, rest = order[:n], order[n:]
            taus = []
            for given in (None, of_nets):
                predictor = registry.predictor(model, supernet.space, layers=supernet.layers, scores=given)
                answer = predictor.fit(population[seen], values[seen]).predict(population[rest])
                taus.append(float(kendalltau(answer.mean, values[rest]).statistic))
            found.append(taus)
            print(f"  {n} rows, draw {seed}: tau {taus[0]:.3f} without, {taus[1]:.3f} with", flush=True)
        without, with_scores = np.array(found).T
        better = with_scores - without
        print(
            f"{model}, {n} rows: tau without {np.median(without):.3f}, with {np.median(with_scores):.3f}; "
            f"difference mean {better.mean():+.3f} (standard error {better.std(ddof=1) / np.sqrt(seeds):.3f}), "
            f"better in {int((better > 0).sum())} of {seeds} draws",
            flush=True,
        )


def timing(nets: int) -> None:
    """Prints CPU seconds per net: as features are made, and as they first were, in double precision on all pixels."""
    for name, supernet in {
        "tiny": Supernet(OfaMobilenetV3(preset="tiny", n_classes=10)),
        "64 x 64": Supernet(OfaMobilenetV3(resolutions=[64])),
    }.items():
        rows = distinct(supernet, nets + 1, seed=3)
        for columns in (SCORES, *((score,) for score in SCORES)):
            of_nets = NetScores(supernet, columns=columns)
            of_nets(rows[:1])
            begun = time.process_time()
            of_nets(rows[1:])
            print(f"MobileNetV3 {name}, {', '.join(columns)}: {(time.process_time() - begun) / nets:.3f} s per net")
        begun = time.process_time()
        for row in rows[1:]:
            arch = supernet.space.architecture(row)
            (x,) = supernet.family.example_inputs(batch=16, arch=arch)
            module, targets = supernet.extract(arch).double(), torch.zeros(16, dtype=torch.long)
            for score in SCORES:
                scores(module, x.double(), targets=targets, only=[score])
        print(f"  one pass per score, batch 16, double precision: {(time.process_time() - begun) / nets:.3f} s per net")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("label", "compare", "time"))
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"))
    parser.add_argument("--out", type=Path, default=Path("labels.npz"))
    parser.add_argument("--labels", type=Path, default=Path("labels.npz"))
    parser.add_argument("--nets", type=int)
    parser.add_argument("--rows", type=int, nargs="+", default=[20, 50])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--calibration", type=int, default=1024)
    args = parser.parse_args()
    one_thread()
    if args.what == "label":
        label(args.config, args.out, nets=args.nets or 140, epochs=args.epochs, calibration=args.calibration)
    elif args.what == "compare":
        compare(args.labels, rows=args.rows, seeds=args.seeds, model=args.model)
    else:
        timing(args.nets or 12)


if __name__ == "__main__":
    main()

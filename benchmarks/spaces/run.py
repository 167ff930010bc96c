"""Speed of search spaces, memory of a subnet's weights, and costs against published rows.

    python benchmarks/spaces/run.py [--data DIR]

One core. Times are CPU time of this process, medians of repeats, so that other programs on the machine disturb little.
DIR holds dynas_ofa_mbv3_w10_imagenet.csv.gz (IntelLabs/DyNAS-T, notebooks/data); without it that part is left out.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import csv
import gzip
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from search_spaces import sampling
from search_spaces.ofa_networks import OfaMobilenetV3, OfaProxyless
from search_spaces.ofa_resnet50 import OfaResNet50
from search_spaces.supernet import SparsityGenes, Supernet

torch.set_num_threads(1)


def seconds(action: Callable[[], object], repeats: int = 5) -> float:
    """Median CPU seconds of an action, after one call that does not count."""
    action()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return statistics.median(times)


def rates() -> None:
    print("| space | genes | samples/s | distinct/s | mutations/s | crossovers/s | exact costs/s |")
    print("|---|---|---|---|---|---|---|")
    sparse = SparsityGenes(choices=("dense", "unstructured-0.8", "2:4"))
    nets = {
        "ofa_mobilenet_v3 w1.0": Supernet(OfaMobilenetV3(), meta=True),
        "ofa_mobilenet_v3 w1.0, sparsity per stage": Supernet(OfaMobilenetV3(), sparsity=sparse, meta=True),
        "ofa_mobilenet_v3 w1.0, 25 resolutions": Supernet(
            OfaMobilenetV3(resolutions=tuple(range(128, 225, 4))), meta=True
        ),
        "ofa_proxyless w1.3": Supernet(OfaProxyless(), meta=True),
        "ofa_resnet50": Supernet(OfaResNet50(), meta=True),
    }
    n, k = 1_000_000, 100_000
    for name, net in nets.items():
        space, rng = net.space, np.random.default_rng(0)
        rows, others = space.sample(k, rng), space.sample(k, rng)
        figures = [
            n / seconds(lambda space=space, rng=rng: space.sample(n, rng), 3),
            k / seconds(lambda space=space, rng=rng: sampling.uniform(space, k, rng, distinct=True), 3),
            k / seconds(lambda space=space, rng=rng, rows=rows: space.mutate(rows, rng, 1 / space.n_genes), 3),
            k / seconds(lambda s=space, r=rng, a=rows, b=others: s.crossover(a, b, r), 3),
            k / seconds(lambda net=net, rows=rows: net.costs(rows), 3),
        ]
        print(f"| {name} | {space.n_genes} | " + " | ".join(f"{f:,.0f}" for f in figures) + " |")


def extraction() -> None:
    print(
        "\n| net | first extract ms | again ms | weights(arch) ms | new memory KiB | kernel-transformed tensors KiB |"
    )
    print("|---|---|---|---|---|---|")
    for name, family in (("ofa_mobilenet_v3 w1.0", OfaMobilenetV3()), ("ofa_resnet50", OfaResNet50())):
        net = Supernet(family)
        for which, arch in (("largest", net.space.largest()), ("smallest", net.space.smallest())):
            start = time.process_time()
            net.extract(arch)
            first = time.process_time() - start
            again = seconds(lambda net=net, arch=arch: net.extract(arch), 15)
            cut = seconds(lambda net=net, arch=arch: net.weights(arch), 15)
            full = {t.untyped_storage().data_ptr() for t in net.tensors().values()}
            weights = net.weights(arch)
            new = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in weights.values()}
            extra = sum(size for pointer, size in new.items() if pointer not in full)
            transformed = sum(weights[n].nbytes for n in family.transforms if n in weights and weights[n].shape[-1] < 7)
            print(
                f"| {name}, {which} | {1e3 * first:.1f} | {1e3 * again:.1f} | {1e3 * cut:.1f} | "
                f"{extra / 1024:.0f} | {transformed / 1024:.0f} |"
            )


def published(folder: Path) -> None:
    path = folder / "dynas_ofa_mbv3_w10_imagenet.csv.gz"
    net = Supernet(OfaMobilenetV3(), meta=True)
    with gzip.open(path, "rt") as file:
        lines = list(csv.DictReader(file))
    rows = []
    for line in lines:
        genes = {f"stage{s + 1}.depth": int(line[f"d{s}"]) for s in range(5)}
        for i in range(20):
            name = f"stage{i // 4 + 1}.block{i % 4 + 1}"
            genes |= {f"{name}.kernel": int(line[f"ks{i}"]), f"{name}.expand": int(line[f"e{i}"])}
        rows.append(net.space.row(genes))
    costs = net.costs(np.stack(rows))
    parameters = costs.parameters == [float(line["params"]) for line in lines]
    macs = costs.macs == [float(line["macs"]) for line in lines]
    print(f"\n{path.name}: parameters equal on {parameters.sum()} of {len(lines)} rows, MACs on {macs.sum()}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    rates()
    extraction()
    if arguments.data is not None:
        published(arguments.data)

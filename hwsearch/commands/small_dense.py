"""Large-sparse against small-dense: what a run's space offers dense at a sparse net's non-zeros and latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hwsearch import checkpoints
from hwsearch.build import Plan
from hwsearch.build.registry import engine_of
from hwsearch.data.dataset import Dataset
from hwsearch.data.prepared import prepared
from hwsearch.distribution.jobs import EvaluateJob
from hwsearch.distribution.workers import NetworkWorker
from hwsearch.errors import UserError
from hwsearch.evaluation import correct_answers
from hwsearch.front import Member
from hwsearch.results import Artifact
from hwsearch.runfolder import RunFolder
from hwsearch.training.verification import Candidate, against_small_dense, paired_difference
from search_spaces.architecture import Architecture
from search_spaces.space import Population, SearchSpace

POOL = 4096
"""Networks drawn from the space, of which those next to a sparse net's costs are candidates."""


def dense_rows(space: SearchSpace, rows: Population) -> Population:
    """Returns the rows with every sparsity gene dense, canonical and distinct; none if a gene has no dense choice."""
    out = rows.copy()
    for column, gene in enumerate(space.genes):
        if gene.name.rpartition(".")[2] == "sparsity":
            if "dense" not in gene.choices:
                return rows[:0]
            out[:, column] = gene.index("dense")
    distinct: Population = np.unique(space.canonical(out), axis=0)
    return distinct


def nearest_below(values: NDArray[Any], limit: float, count: int) -> list[int]:
    """Returns the positions of the `count` largest values that are at most `limit`, the largest first."""
    order = np.argsort(-values, kind="stable")
    return [int(i) for i in order if values[i] <= limit][:count]


@dataclass(frozen=True)
class Dense:
    """A dense network of the space, with the super-network's weights."""

    arch: Architecture
    accuracy: float
    artifacts: Mapping[str, Artifact]


class SmallDense:
    """Finds dense counterparts of a run's sparse nets.

    Candidates are the dense networks of the space with as many non-zeros, and those with as many
    multiply-accumulates: the sparse net without its zeros among them, which is as fast where zeros buy no time. All
    have the super-network's weights, as the found nets have.

    Args:
        plan: of the run.
        folder: of the run.
        candidates: per sparse net and kind of cost.
        slack: share by which a dense network may cost more: two latencies are never equal.

    Raises:
        UserError: the super-network's weights are missing, or the run has no data.
    """

    def __init__(self, plan: Plan, folder: RunFolder, *, candidates: int = 6, slack: float = 0.02) -> None:
        if not folder.supernet.is_file() or plan.dataset is None:
            raise UserError(f"{folder.supernet} and data must be there to score dense networks, but are not.")
        self.plan, self.folder, self.candidates, self.slack = plan, folder, candidates, slack
        self.dataset: Dataset = plan.dataset
        self.supernet = plan.supernet()
        checkpoints.load_weights(self.supernet, folder.supernet)
        self.worker = NetworkWorker(
            self.supernet,
            self.dataset,
            exporters={name: plan.exporter(name) for name in plan.measured if name not in plan.unavailable},
            admitted=plan.admitted,
            engine_of=engine_of,
            quantization_images=plan.config.evaluation.quantization_images,
            calibration_images=plan.config.evaluation.calibration_images,
            calibration_batch=plan.config.evaluation.calibration_batch,
            batch=plan.config.evaluation.batch,
        )
        space = self.supernet.space
        drawn = space.sample(POOL, np.random.default_rng([plan.config.seed, 21]))
        self._pool = dense_rows(space, np.concatenate([space.row(space.smallest())[None], drawn]))

    def rows(self, arch: Architecture) -> Population:
        """Returns the candidates of a sparse architecture."""
        space = self.supernet.space
        twin = dense_rows(space, space.row(arch)[None])
        pool = np.concatenate([twin, self._pool])
        if not len(pool):
            return pool
        costs, nonzeros = self.supernet.costs(pool), self.supernet.layer_costs(arch).nonzeros[0]
        chosen = nearest_below(costs.nonzeros, float(nonzeros) * (1 + self.slack), self.candidates)
        chosen += nearest_below(costs.macs, float(costs.macs[0]), self.candidates)
        found: Population = np.unique(pool[chosen], axis=0)
        return found

    def compare(
        self, member: Member, module: nn.Module, *, note: Callable[[str], None] | None = None
    ) -> list[dict[str, Any]]:
        """Returns, per cost, the best dense candidate that costs no more and how the sparse net compares.

        The candidate is chosen on search-validation data; the paired difference is on the hold-out. All latencies
        are measured side by side.

        Args:
            member: sparse net of the front.
            module: the same, with its weights.
            note: called with a line when the candidates are scored.
        """
        arch = self.supernet.space.architecture(member.architecture)
        dense = [self._scored(row, i) for i, row in enumerate(self.rows(arch))]
        if note is not None:
            note(f"{member.key}: {len(dense)} dense networks scored")
        costs = [
            {"nonzeros": float(self.supernet.layer_costs(a).nonzeros[0])} for a in (arch, *(d.arch for d in dense))
        ]
        for name in self.plan.measured:
            for found, latency in zip(costs, self._latencies(name, member, dense), strict=False):
                found[f"latency_ms@{name}"] = latency
        nets = [Candidate(d.arch.key, d.accuracy, True, c) for d, c in zip(dense, costs[1:], strict=True)]
        nets.append(Candidate(member.key, float("nan"), False, costs[0]))
        right = correct_answers(module, self._holdout(arch))
        out = []
        for row in against_small_dense(nets, keys={member.key}, slack=self.slack):
            told = asdict(row) | {"accuracy": float(right.mean()), "difference": None}
            if row.dense_key is not None:
                (best,) = (d.arch for d in dense if d.arch.key == row.dense_key)
                answers = correct_answers(self.worker.subnet(best), self._holdout(best))
                told["dense_accuracy"] = float(answers.mean())
                told["difference"] = asdict(paired_difference(right, [answers]))
                told["dense_architecture"] = best.to_dict()
            out.append(told)
        return out

    def _holdout(self, arch: Architecture) -> Any:
        return prepared(self.dataset, lambda inputs: self.supernet.family.prepare(inputs, arch)).holdout

    def _scored(self, row: NDArray[np.uint8], index: int) -> Dense:
        evaluation, artifacts = self.worker.evaluate(EvaluateJob(index, row))
        if evaluation.error is not None:
            raise UserError(f"a dense network could not be evaluated: {evaluation.error}")
        return Dense(self.supernet.space.architecture(row), evaluation.metrics["accuracy"], artifacts)

    def _latencies(self, name: str, member: Member, dense: Sequence[Dense]) -> list[float]:
        """Returns the latency of the sparse net and of all dense ones, timed in turns; none where none is measured."""
        own = self.folder.load_artifact(member.artifacts[name]) if name in member.artifacts else None
        if own is None:
            return []
        device = self.plan.device(name, reference_ms=self.folder.references().get(name))
        measured = device.measure([own, *(d.artifacts[name] for d in dense)])
        return [m["latency_ms"].value for m in measured if "latency_ms" in m]

"""`hwsearch import`: results of other systems become finished trials of a run, or a table for predictors."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from hwsearch import build
from hwsearch.build import registry
from hwsearch.commands.identity import check_identity, identity
from hwsearch.construct import construct
from hwsearch.database import one_driver
from hwsearch.errors import UserError
from hwsearch.importers.dynas import DynasResults, parse_dynas
from hwsearch.journal import repair_journal
from hwsearch.objectives import COST_METRICS
from hwsearch.results import Evaluation, Measurement
from hwsearch.runfolder import RunFolder, RunLock, write_atomic
from hwsearch.study import Study, open_storage
from search_spaces.populations import not_in
from search_spaces.space import SearchSpace


def import_dynas(
    source: Path, space: str, *, device: str | None = None, run_dir: Path | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Imports a result file of DyNAS-T and says what was taken.

    Args:
        source: the CSV file; 0 means not measured there.
        space: a configuration (its run gets the finished trials), or the name of a family (with `out`).
        device: device of the configuration that the file's latencies belong to; None leaves them out.
        run_dir: of the run; `runs/<name>` by default.
        out: write genes and metrics of every row as a CSV table instead.

    Raises:
        UserError: another file or space, an objective that the file does not have; nothing is written then.
    """
    config = Path(space)
    if config.suffix not in {".yaml", ".yml"}:
        if out is None:
            raise UserError(f"--space must be a configuration (.yaml) to import into a run, but got {space!r}.")
        family = construct(registry.named("families", space, "--space"), {}, where="--space", given={})
        return _table(parse_dynas(source, family), family.space, out)
    plan = build.load(config)
    results = parse_dynas(source, plan.family)
    if out is not None:
        return _table(results, plan.family.space, out)
    if device is not None and device not in plan.devices:
        raise UserError(f"--device must be a device of {config} ({sorted(plan.devices)}), but got {device!r}.")
    rows, evaluations = results.evaluations(device=device)
    # Their sub-networks are dense: sparsity genes are at their first choice.
    if plan.sparsity is not None and plan.sparsity.patterns[0].name != "dense":
        raise UserError("sparsity.choices must start with 'dense' to import dense sub-networks.")
    if plan.precisions and plan.precisions[0] != "fp32":
        raise UserError("precision.choices must start with 'fp32' to import networks that were not quantised.")
    if plan.space.n_genes > rows.shape[1]:
        added = np.zeros((len(rows), plan.space.n_genes - rows.shape[1]), dtype=np.uint8)
        rows = plan.space.canonical(np.concatenate([rows, added], axis=1))
    costs = plan.supernet(meta=True).costs(rows)
    needed = [o.name for o in (*plan.objectives, *plan.limits) if o.metric not in COST_METRICS]
    missing = [name for name in needed if not any(name in e.metrics for e in evaluations)]
    if missing:
        raise UserError(f"{source} must hold every objective that is not an exact cost, but has no {missing[0]}.")
    folder = RunFolder(run_dir or Path("runs") / plan.config.name)
    check_identity(plan, folder)
    with RunLock(folder.path), one_driver(plan.config.storage, plan.config.name):
        folder.save_config(plan.config.to_dict())
        if plan.config.storage is None:
            repair_journal(folder.journal)
        study = Study(
            plan.config.name,
            plan.space,
            objectives=plan.objectives,
            limits=plan.limits,
            devices=plan.measured,
            admitted=plan.admitted,
            identity=identity(plan),
            storage=open_storage(plan.config.storage, folder.journal),
        )
        fresh = not_in(rows, study.history().genotypes)
        taken = 0
        for i in np.flatnonzero(fresh):
            found = evaluations[i].metrics
            if any(name not in found for name in needed):
                continue
            taken += 1
            (index,) = study.start(rows[i][None], attributes={"source": str(source.name)})
            # Exact costs are ours; what the file says of them (definitions changed over time) is kept beside.
            metrics = {n: v for n, v in found.items() if "@" not in n} | costs.metrics(int(i))
            theirs = {f"dynas_{name}": found[name] for name in COST_METRICS if name in found}
            attributes = {**evaluations[i].attributes, **theirs}
            study.record(index, Evaluation(metrics, seconds=0.0, attributes=attributes))
            for name in plan.measured:
                latency = found[f"latency_ms@{name}"]
                study.record_measurement(index, name, {"latency_ms": Measurement(latency, float("nan"), "ms")})
    return {
        "folder": str(folder.path),
        "rows": len(results),
        "architectures": len(rows),
        "known_before": int((~fresh).sum()),
        "imported": taken,
        "incomplete": int(fresh.sum()) - taken,
        "shifted_columns": results.shifted,
    }


def _table(results: DynasResults, space: SearchSpace, out: Path) -> dict[str, Any]:
    """Writes genes and metrics of every row; a metric that is not known stays empty."""
    text = io.StringIO()
    writer = csv.writer(text)
    names = list(results.metrics)
    writer.writerow([*[g.name for g in space.genes], *names])
    columns = space.columns(results.population)
    for i in range(len(results)):
        values = [results.metrics[name][i] for name in names]
        genes = [columns[g.name][i] for g in space.genes]
        writer.writerow([*genes, *["" if np.isnan(v) else repr(float(v)) for v in values]])
    write_atomic(out, text.getvalue().encode())
    return {"file": str(out), "rows": len(results), "metrics": names, "shifted_columns": results.shifted}
